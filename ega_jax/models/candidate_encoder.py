"""What one candidate is to one user: the part of a click model that does not depend on the list.

Used by the reward model and by the ranker, so that a comparison of the two is one of list context, not of inputs.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ega_jax.models.features import candidate_features, hour_kernel
from ega_jax.nn.attention import MultiHeadAttention
from ega_jax.nn.embedding import IdEmbedding
from ega_jax.nn.hstu import HSTUBlock
from ega_jax.nn.linear import MLP, Dense, RMSNorm, partitioned


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """Sizes of the candidate encoder and of the models on top of it."""

  num_pois: int
  num_users: int
  num_creatives: int
  width: int = 64
  num_heads: int = 4
  num_layers: int = 2
  mlp_width: int = 128
  history_items: int = 40
  max_positions: int = 10
  pair_channels: int = 8
  num_parents: int = 32  # parent categories told apart by the reward model; later ones share the last row
  pair_kinds: int = 2  # learned relations between two entries, of each sort
  pair_rank: int = 8
  history: str = "target"  # how the history is read: "target" attention, or "hstu" blocks first and target attention
  dropout: float = 0.1
  id_dropout: float = 0.1  # share of user, POI and creative ids hidden in training: content must suffice for new ones
  calibrated: bool = True
  members: int = 1  # models whose mean is the prediction
  dtype: Any = jnp.float32

  def __post_init__(self):
    if self.history not in ("target", "hstu"):
      raise ValueError(f"history is {self.history!r}; allowed: 'target', 'hstu'")


def positions_to_ids(candidates, positions):
  """Returns POI ids i32[B, X] of positions i32[B, X] in candidates i32[B, C]; -1 stays -1."""
  ids = jnp.take_along_axis(candidates, jnp.maximum(positions, 0), axis=1)
  return jnp.where(positions >= 0, ids, -1)


def take_rows(values, positions):
  """Returns values [B, C, ...] at positions i32[B, ...X], shape [B, ...X, ...]; -1 reads row 0."""
  flat = jnp.maximum(positions, 0).reshape(positions.shape[0], -1)
  taken = jax.vmap(lambda rows, index: rows[index])(values, flat)
  return taken.reshape(*positions.shape, *values.shape[2:])


class UserEncoder(nn.Module):
  """Id, place, hour and the embedded history of a user."""

  config: EncoderConfig

  @nn.compact
  def __call__(self, request, catalog, user, *, deterministic=True):
    """Returns (user f[B, d], events f[B, H, d], present bool[B, H]), H the last config.history_items events of a
    request.

    Args: request, catalog: of `ega_jax.types`; user i32[B], -1 where unknown; deterministic: False drops out, by the
      rng "dropout".
    """
    config = self.config
    table = partitioned(nn.initializers.normal(0.1), (None, "embed"))
    recent = slice(-config.history_items, None)
    poi, creative = request.history_poi[:, recent], request.history_creative[:, recent]
    present, safe = poi >= 0, jnp.maximum(poi, 0)
    age = jnp.log1p(jnp.maximum(request.history_age[:, recent], 0.0))
    near = hour_kernel(request.history_hour[:, recent], request.history_age[:, recent], request.hour)
    shown = (creative >= 0)[..., None]
    style = jnp.where(shown, catalog.creative_embedding[jnp.maximum(creative, 0)], 0.0)
    offset = (catalog.poi_place[safe] - request.place[:, None]) / 5.0
    dense = jnp.concatenate([catalog.poi_embedding[safe], style, offset, age[..., None], near[..., None]], axis=-1)
    events = Dense(config.width, names=(None, "embed"), dtype=config.dtype, name="event")(dense)
    events = events + IdEmbedding(config.num_pois, config.width, name="poi_id")(safe)
    events = events + self.param("action", table, (4, config.width))[jnp.clip(request.history_action[:, recent], 0, 3)]
    events = jnp.where(present[..., None], events, 0.0)
    if config.history == "hstu":
      for layer in range(config.num_layers):
        block = HSTUBlock(config.width, config.num_heads, config.dropout, config.dtype, name=f"hstu_{layer}")
        events = block(events, present, deterministic=deterministic)
    hour = jnp.where(request.hour >= 0, request.hour, 168)
    state = IdEmbedding(config.num_users, config.width, name="user")(user)
    state = state + self.param("hour", table, (169, config.width))[hour]
    state = state + Dense(config.width, names=(None, "embed"), dtype=config.dtype, name="place")(request.place / 10.0)
    mean = jnp.sum(events, axis=1) / jnp.maximum(jnp.sum(present, axis=1), 1)[:, None]
    state = state + Dense(config.width, names=("embed", "mlp"), dtype=config.dtype, name="mean")(mean)
    return RMSNorm(name="user_norm")(state), RMSNorm(name="event_norm")(events), present


class CandidateEncoder(nn.Module):
  """Embeds candidates and creatives for a user; list-unaware.

  Arguments of its methods: request, catalog: of `ega_jax.types`; user: what `user` returns; deterministic: False drops
  out and hides a share of the ids, by the rng "dropout".
  """

  config: EncoderConfig

  def setup(self):
    config = self.config
    self.user_encoder = UserEncoder(config)
    self.target_attention = MultiHeadAttention(config.width, config.num_heads, config.dtype)
    self.feature_mlp = MLP((config.width, config.width), config.dtype)
    self.content = Dense(config.width, names=(None, "embed"), dtype=config.dtype)
    self.poi_id = IdEmbedding(config.num_pois, config.width)
    self.ad = self.param("ad", partitioned(nn.initializers.normal(0.1), (None, "embed")), (2, config.width))
    self.interest_query = Dense(config.width, names=("embed", "mlp"), dtype=config.dtype)
    self.interest = Dense(config.width, names=("mlp", "embed"), dtype=config.dtype)
    self.item_norm, self.creative_norm = RMSNorm(), RMSNorm()
    self.style = Dense(config.width, names=(None, "embed"), dtype=config.dtype)
    self.creative_id = IdEmbedding(config.num_creatives, config.width)
    self.taste = Dense(config.width, names=("embed", "mlp"), dtype=config.dtype)
    self.match = Dense(config.width, names=("mlp", "embed"), dtype=config.dtype)
    self.affinity = Dense(config.width, names=(None, "embed"), use_bias=False, dtype=config.dtype)

  def _hide(self, ids, deterministic):
    if deterministic or self.config.id_dropout == 0:
      return ids
    hidden = jax.random.bernoulli(self.make_rng("dropout"), self.config.id_dropout, ids.shape)
    return jnp.where(hidden, -1, ids)

  def user(self, request, catalog, *, deterministic=True):
    """Returns (user f[B, d], events f[B, H, d], present bool[B, H])."""
    user = self._hide(request.user, deterministic)
    return self.user_encoder(request, catalog, user, deterministic=deterministic)

  def items(self, user, request, catalog, pois, is_ad, *, deterministic=True):
    """Returns f[B, X, d] of POIs i32[B, X] with is_ad bool[B, X]."""
    state, events, present = user
    safe = jnp.maximum(pois, 0)
    features = candidate_features(request, catalog, pois)
    content = self.content(catalog.poi_embedding[safe])
    item = content + self.poi_id(self._hide(pois, deterministic))
    read = self.target_attention(item, events, mask=present[:, None, None, :])
    interest = self.interest(self.interest_query(state)[:, None] * item)
    ad = self.ad.astype(item.dtype)[is_ad.astype(jnp.int32)]
    return self.item_norm(item + read + interest + ad + self.feature_mlp(features.astype(item.dtype)))

  def creatives(self, user, request, catalog, creatives, *, deterministic=True):
    """Returns f[B, ..., d] of creative ids i32[B, ...]: style, id, and their match with the user's taste."""
    state, known = user[0], (creatives >= 0)[..., None]
    style = jnp.where(known, catalog.creative_embedding[jnp.maximum(creatives, 0)], 0.0)
    embedded = self.style(style) + self.creative_id(self._hide(creatives, deterministic))
    middle = (slice(None),) + (None,) * (creatives.ndim - 1)
    matched = self.match(self.taste(state)[middle] * embedded)
    cosine = jnp.einsum("b...e,be->b...", style, self._style_profile(request, catalog))
    cosine = cosine / jnp.maximum(jnp.linalg.norm(style, axis=-1), 1e-6)
    return self.creative_norm(embedded + matched + self.affinity(cosine[..., None].astype(embedded.dtype)))

  def _style_profile(self, request, catalog):
    """Returns f32[B, E]: unit-length mean style of the creatives that the user clicked."""
    clicked = (request.history_creative >= 0)[..., None]
    styles = jnp.where(clicked, catalog.creative_embedding[jnp.maximum(request.history_creative, 0)], 0.0)
    total = jnp.sum(styles, axis=1)
    return total / jnp.maximum(jnp.linalg.norm(total, axis=-1, keepdims=True), 1e-6)
