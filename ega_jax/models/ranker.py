"""The cascade's models: pCTR, creative scores and two-tower recall, each blind to the rest of the list.

Same inputs, same candidate encoder and same logs as the reward model: what the reward model adds is the list.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ega_jax.models.candidate_encoder import CandidateEncoder, EncoderConfig, positions_to_ids, take_rows
from ega_jax.nn.linear import MLP, Dense, RMSNorm, partitioned

RankerConfig = EncoderConfig
HEADS = ("poi", "creative", "conversion")


class TwoTower(nn.Module):
  """Recall: inner products of a user and an item vector."""

  config: EncoderConfig

  @nn.compact
  def __call__(self, user, request, catalog, pois):
    """Returns recall scores f32[B, X] of pois i32[B, X]; 0 for POI -1.

    Args: user: (f[B, d], events f[B, H, d], present bool[B, H]) of `CandidateEncoder.user`; request, catalog: of
      `ega_jax.types`.
    """
    config, safe = self.config, jnp.maximum(pois, 0)
    state, events, present = user
    mean = jnp.sum(jnp.where(present[..., None], events, 0.0), 1) / jnp.maximum(present.sum(1), 1)[:, None]
    # Squared distance is a sum of products of the two towers' coordinates: recall stays an inner product.
    query = jnp.concatenate([state, mean, request.place / 5.0], axis=-1)
    query = MLP((config.width, config.width), config.dtype, name="user")(query)
    place = catalog.poi_place[safe] / 5.0
    dense = [catalog.poi_embedding[safe], catalog.poi_popularity[safe][..., None], place, place**2]
    item = MLP((config.width, config.width), config.dtype, name="item")(jnp.concatenate(dense, axis=-1))
    score = jnp.einsum("bxd,bd->bx", item, query) * config.width**-0.5
    return jnp.where(pois >= 0, score.astype(jnp.float32), 0.0)


class Member(nn.Module):
  """One set of pointwise click models; arguments and results of its methods are as in `Ranker`."""

  config: EncoderConfig

  def setup(self):
    config = self.config
    self.candidates = CandidateEncoder(config)
    self.two_tower = TwoTower(config)
    table = partitioned(nn.initializers.normal(0.1), (None, "embed"))
    self.position = self.param("position", table, (config.max_positions, config.width))
    self.user_projection = Dense(config.width, names=("embed", "mlp"), dtype=config.dtype)
    self.norm = RMSNorm()
    self.towers = [MLP((config.mlp_width, config.width, 1), config.dtype, name=f"{head}_tower") for head in HEADS]
    self.creative_effect = MLP((config.width, len(HEADS)), config.dtype)

  def _item_logits(self, user, request, catalog, pois, is_ad, position, deterministic):
    """Returns f32[B, X, 3] of the item, the user and the position i32[B, X] or [X]; no creative."""
    h = self.candidates.items(user, request, catalog, pois, is_ad, deterministic=deterministic)
    h = h + self.position.astype(h.dtype)[position] + self.user_projection(user[0])[:, None]
    h = self.norm(h)
    return jnp.concatenate([tower(h) for tower in self.towers], axis=-1).astype(jnp.float32)

  def _creative_logits(self, user, request, catalog, creatives, deterministic):
    """Returns f32[B, ..., 3]: what a creative adds to each logit; 0 for creative -1."""
    h = self.candidates.creatives(user, request, catalog, creatives, deterministic=deterministic)
    return jnp.where((creatives >= 0)[..., None], self.creative_effect(h).astype(jnp.float32), 0.0)

  def __call__(self, request, catalog, items, creatives, deterministic):
    """Returns the logits of `Ranker`."""
    pois, is_ad = positions_to_ids(request.candidates, items), take_rows(request.is_ad, items)
    user = self.candidates.user(request, catalog, deterministic=deterministic)
    if not deterministic:
      hidden = jax.random.bernoulli(self.make_rng("dropout"), 0.2, (items.shape[0], 1))
      creatives = jnp.where(hidden, -1, creatives)
    place = jnp.arange(items.shape[1])
    logits = self._item_logits(user, request, catalog, pois, is_ad, place, deterministic)
    logits = logits + self._creative_logits(user, request, catalog, creatives, deterministic)
    logits = jnp.where((items >= 0)[..., None], logits, 0.0)
    heads = {name: logits[..., i] for i, name in enumerate(HEADS)}
    return {**heads, "recall": self.two_tower(user, request, catalog, pois)}

  def click_logits(self, request, catalog, positions):
    """Returns pCTR logits f32[B, X] of the candidates at positions i32[B, X] (all C if None), as if shown first."""
    pois, is_ad = request.candidates, request.is_ad
    if positions is not None:
      pois, is_ad = positions_to_ids(pois, positions), take_rows(is_ad, positions)
    user = self.candidates.user(request, catalog)
    logits = self._item_logits(user, request, catalog, pois, is_ad, 0, True)[..., 0]
    return jnp.where(pois >= 0, logits, 0.0)

  def creative_logits(self, request, catalog, creatives):
    """Returns scores f32[B, ..., R] of creative ids i32[B, ..., R]: their part in both clicks; -inf if -1."""
    user = self.candidates.user(request, catalog)
    effects = self._creative_logits(user, request, catalog, creatives, True)
    return jnp.where(creatives >= 0, effects[..., 0] + effects[..., 1], -jnp.inf)

  def recall_logits(self, request, catalog):
    """Returns two-tower scores f32[B, C] of all candidates."""
    user = self.candidates.user(request, catalog)
    return self.two_tower(user, request, catalog, request.candidates)


class Ranker(nn.Module):
  """Pointwise click models, the mean of `config.members`: as many as the reward model has, for a fair comparison.

  `__call__` is for training on shown items, the other methods serve all candidates. request, catalog: of
  `ega_jax.types`.
  """

  config: EncoderConfig

  def setup(self):
    self.members = nn.vmap(
      Member, in_axes=None, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True},
      axis_size=self.config.members, metadata_params={nn.PARTITION_NAME: None},
      methods=["__call__", "click_logits", "creative_logits", "recall_logits"],
    )(self.config)  # fmt: skip

  def __call__(self, request, catalog, items, creatives, *, deterministic=True, each=False):
    """Returns {"poi", "creative", "conversion", "recall"}: logits f32[B, K] of shown items; 0 where an item is -1.

    Args: items i32[B, K] positions in the candidates, in the order shown; creatives i32[B, K] creative ids. In training
      (deterministic False, by the rng "dropout") some lists' creatives are hidden, so that the item's part is the pCTR
      of a POI whose creative is not chosen yet.
    each: f32[members, B, K] instead of the mean: what training fits.
    """
    request, catalog = jax.tree.map(jnp.asarray, (request, catalog))
    logits = self.members(request, catalog, items, creatives, deterministic)
    return logits if each else jax.tree.map(lambda x: jnp.mean(x, axis=0), logits)

  def click_logits(self, request, catalog, positions=None):
    """Returns pCTR logits f32[B, X] of the candidates at positions i32[B, X] (all C if None), as if shown first."""
    request, catalog = jax.tree.map(jnp.asarray, (request, catalog))
    return jnp.mean(self.members.click_logits(request, catalog, positions), axis=0)

  def creative_logits(self, request, catalog, creatives):
    """Returns scores f32[B, ..., R] of creative ids i32[B, ..., R]: their part in both clicks; -inf if -1."""
    request, catalog = jax.tree.map(jnp.asarray, (request, catalog))
    return jnp.mean(self.members.creative_logits(request, catalog, creatives), axis=0)

  def recall_logits(self, request, catalog):
    """Returns two-tower scores f32[B, C] of all candidates."""
    request, catalog = jax.tree.map(jnp.asarray, (request, catalog))
    return jnp.mean(self.members.recall_logits(request, catalog), axis=0)
