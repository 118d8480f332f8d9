"""The generator's encoder: a few context tokens, then the events of the history (EGA Eq. 14).

Ours: the context tokens, and the POI's content, id and distance in each event's first token.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from ega_jax.models.ega_config import EGAConfig
from ega_jax.nn.embedding import IdEmbedding
from ega_jax.nn.linear import Dense, RMSNorm, constrain, partitioned
from ega_jax.nn.transformer import EncoderBlock
from ega_jax.types import VISIT

NUM_CONTEXT = 3  # user, place, hour
NUM_AGES = 16  # event ages in powers of two hours
UNKNOWN_AGE = 8.0  # hours between a user's visits, where it is not known: neither just now nor long ago


def recent_events(request, count):
  """Returns the request with its last `count` events (the history is right-aligned)."""
  names = ("history_poi", "history_creative", "history_action", "history_hour", "history_age")
  return dataclasses.replace(request, **{name: getattr(request, name)[:, -count:] for name in names})


def hide_time(request, hidden):
  """Returns the request as known at its last event where hidden bool[B]: no hour of its own, ages as if that event had
  been UNKNOWN_AGE ago.
  """
  present = request.history_poi >= 0
  last = jnp.where(present, request.history_age, jnp.inf).min(axis=1, keepdims=True)
  age = jnp.where(present, request.history_age - last + UNKNOWN_AGE, 0.0)
  return dataclasses.replace(
    request, hour=jnp.where(hidden, -1, request.hour), history_age=jnp.where(hidden[:, None], age, request.history_age)
  )  # fmt: skip


def hide_clicks(request, hidden):
  """Returns the request whose clicks are gone where hidden bool[B]; their places stay empty."""
  gone = hidden[:, None] & (request.history_action > VISIT)
  poi = jnp.where(gone, -1, request.history_poi)
  action = jnp.where(gone, 0, request.history_action)
  return dataclasses.replace(request, history_poi=poi, history_action=action)


class HistoryEmbedder(nn.Module):
  """Token embeddings of `context, SEP P.. C.., SEP P.. C..` (EGA Eq. 14)."""

  config: EGAConfig

  @nn.compact
  def __call__(self, request, ids, catalog, poi_codes, creative_codes, *, deterministic=True):
    """Returns (context [B, 3, d], events [B, H, 1 + L + Lc, d], event mask bool[B, H]).

    Args: request, ids, catalog: of `ega_jax.types`; poi_codes, creative_codes: the CodeEmbedding of either kind;
      deterministic: False hides a share of the users, by the rng "dropout".
    """
    present = request.history_poi >= 0
    codes = jnp.where(present[..., None], ids.poi[jnp.maximum(request.history_poi, 0)], -1)
    shown = present & (request.history_creative >= 0)
    creative = jnp.where(shown[..., None], ids.creative[jnp.maximum(request.history_creative, 0)], -1)
    separator = self._separator(request, catalog)[:, :, None]
    tokens = jnp.concatenate([separator, poi_codes(codes), creative_codes(creative)], axis=2)
    slot = self._table("slot", tokens.shape[2])
    order = self._table("order", self.config.history_items)[-tokens.shape[1] :]
    return self._context(request, deterministic), tokens + slot + order[:, None], present

  def _table(self, name, size):
    initializer = partitioned(nn.initializers.normal(0.1), (None, "embed"))
    return self.param(name, initializer, (size, self.config.width)).astype(self.config.dtype)

  def _dense(self, name, names=(None, "embed")):
    return Dense(self.config.width, names=names, dtype=self.config.dtype, name=name)

  def _separator(self, request, catalog):
    poi = jnp.maximum(request.history_poi, 0)
    age = jnp.log2(1 + jnp.maximum(request.history_age, 0.0)).astype(jnp.int32)
    hour = jnp.where(request.history_hour >= 0, request.history_hour, 168)
    offset = catalog.poi_place[poi] - request.place[:, None, :]
    distance = jnp.sqrt(jnp.sum(jnp.square(offset), -1, keepdims=True))
    x = self._table("action", 4)[jnp.clip(request.history_action, 0, 3)]
    x = x + self._table("age", NUM_AGES)[jnp.minimum(age, NUM_AGES - 1)]
    x = x + self._table("event_hour", 169)[hour]
    x = x + IdEmbedding(self.config.num_pois, self.config.width, dtype=self.config.dtype, name="poi_id")(poi)
    return x + self._dense("content")(catalog.poi_embedding[poi]) + self._dense("distance")(jnp.log1p(distance))

  def _context(self, request, deterministic):
    user = request.user
    if not deterministic and self.config.user_dropout > 0:
      dropped = jax.random.bernoulli(self.make_rng("dropout"), self.config.user_dropout, user.shape)
      user = jnp.where(dropped, -1, user)
    hour = jnp.where(request.hour >= 0, request.hour, 168)
    parts = [
      IdEmbedding(self.config.num_users, self.config.width, name="user")(user),
      self._dense("place")(request.place / 10.0),
      self._table("hour", 169)[hour],
    ]
    return jnp.stack([part.astype(self.config.dtype) for part in parts], axis=1) + self._table("context", NUM_CONTEXT)


class Encoder(nn.Module):
  """Self-attention over the embedded history (EGA Eq. 14), and what cross-attention and the item prior read of it."""

  config: EGAConfig

  @nn.compact
  def __call__(self, context, events, present, *, deterministic=True):
    """Returns (states [B, S, d], mask bool[B, S], summary [B, d]) of what HistoryEmbedder gives.

    S is 3 + H where config.cross_attention is "events", 3 + H * (1 + L + Lc) where it is "tokens".

    Args: context [B, 3, d]; events [B, H, 1 + L + Lc, d]; present bool[B, H]; deterministic: False drops out.
    """
    config, (batch, count, slots, width) = self.config, events.shape
    x = jnp.concatenate([context, events.reshape(batch, count * slots, width)], axis=1)
    mask = jnp.concatenate([jnp.ones((batch, NUM_CONTEXT), bool), jnp.repeat(present, slots, axis=1)], axis=1)
    x = nn.Dropout(config.dropout, deterministic=deterministic)(constrain(x))
    for layer in range(config.num_layers):
      block = EncoderBlock(
        config.width, config.num_heads, config.mlp_width, config.dropout, config.dtype, name=f"layer_{layer}"
      )
      run = lambda block, x: block(x, mask=mask[:, None, None, :], deterministic=deterministic)
      x = (nn.remat(run) if config.remat else run)(block, x)
    x = RMSNorm(name="norm")(x)
    weights = mask.astype(x.dtype)[..., None]
    mean = jnp.sum(x * weights, axis=1) / jnp.sum(weights, axis=1)
    both = jnp.concatenate([mean, x[:, 0], x[:, 1], x[:, 2]], axis=-1)
    summary = Dense(width, names=("mlp", "embed"), dtype=config.dtype, name="summary")(both)
    summary = RMSNorm(name="summary_norm")(summary)
    if config.cross_attention == "events":
      keep = jnp.concatenate([jnp.arange(NUM_CONTEXT), NUM_CONTEXT + slots * jnp.arange(count)])
      x, mask = x[:, keep], mask[:, keep]
    return x, mask, summary
