"""The permutation-aware reward model: click probabilities of every item of a list (EGA Eq. 18-20).

Departures, all our decision: three logits per item instead of one score per list (the auction needs one per item);
towers read the item, the list's mean, the user and the position; attention is biased by distance in the list and by
similarity, and the sums that make neighbours substitutes are also given explicitly; a calibration fitted on logs that
training did not see is part of the parameters.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ega_jax.models.calibration import Calibration, apply_calibration
from ega_jax.models.candidate_encoder import CandidateEncoder, EncoderConfig, positions_to_ids, take_rows
from ega_jax.models.pairs import LearnedPairs, pair_similarity
from ega_jax.nn.linear import MLP, Dense, RMSNorm, partitioned
from ega_jax.nn.transformer import EncoderBlock

RewardConfig = EncoderConfig
HEADS = ("poi", "creative", "conversion")

class ListContext(nn.Module):
  """What the pairs of a list are to attention and to each entry.

  Weights depend on the signed distance i - j, so that what stands above may act more strongly than what stands below.
  """

  config: EncoderConfig

  @nn.compact
  def __call__(self, pairs):
    """Returns (bias f32[B, U, heads, K, K], sums f32[B, U, K, channels]), K <= config.max_positions.

    pairs f32[B, U, K, K, kinds]: [.., i, j, :] is how entry j bears on entry i.
    """
    config, length = self.config, pairs.shape[-2]
    distance = jnp.arange(length)[:, None] - jnp.arange(length)[None] + config.max_positions - 1
    shape = (2 * config.max_positions - 1, pairs.shape[-1])
    initializer = partitioned(nn.initializers.normal(0.1), (None, None, None))
    bias = self.param("bias", initializer, (*shape, config.num_heads))[distance]
    weight = self.param("weight", initializer, (*shape, config.pair_channels))[distance]
    sums = jnp.einsum("buijm,ijmc->buic", pairs, weight)
    return jnp.einsum("buijm,ijmh->buhij", pairs, bias), sums


class Member(nn.Module):
  """One click model of lists; per-request work is done once for all of a request's lists.

  deterministic, alone, and the arguments of a call: as in `RewardModel`.
  """

  config: EncoderConfig

  deterministic: bool
  alone: bool

  @nn.compact
  def __call__(self, request, catalog, items, creatives):
    """Returns the logits of `RewardModel`, uncalibrated."""
    deterministic, alone = self.deterministic, self.alone
    config, present = self.config, items >= 0
    encoder = CandidateEncoder(config, name="candidates")
    user = encoder.user(request, catalog, deterministic=deterministic)
    h = self._items(encoder, user, request, catalog, items, deterministic)
    h = h + encoder.creatives(user, request, catalog, creatives, deterministic=deterministic)
    pointwise = self._alone(h, user[0], jnp.zeros(items.shape[-1], jnp.int32) if alone else jnp.arange(items.shape[-1]))
    pointwise = {name: jnp.where(present, logit, 0.0) for name, logit in pointwise.items()}
    if alone:
      return pointwise
    pois = positions_to_ids(request.candidates, items.reshape(items.shape[0], -1)).reshape(items.shape)
    learned = LearnedPairs(config.num_parents, config.pair_kinds, config.pair_rank, name="pairs")
    pairs = [pair_similarity(catalog, pois), learned(catalog, pois)]
    bias, sums = ListContext(config, name="context")(jnp.concatenate(pairs, axis=-1))
    h, base = self._enter_list(h, sums, present)
    for layer in range(config.num_layers):
      block = EncoderBlock(
        config.width, config.num_heads, config.mlp_width, config.dropout, config.dtype, name=f"layer_{layer}"
      )
      h = block(h, mask=present[:, :, None, None, :], bias=bias, deterministic=deterministic)
    logits = self._towers(h, user[0], present, base)
    return {**logits, **pointwise}

  def _alone(self, h, user, positions):
    """Returns {"poi_alone", "creative_alone"}: logits of h f[B, U, K, d] at positions i32[K], neighbours unseen."""
    config = self.config
    table = partitioned(nn.initializers.normal(0.1), (None, "embed"))
    h = h + self.param("alone_position", table, (config.max_positions, config.width)).astype(h.dtype)[positions]
    h = h + Dense(config.width, names=("embed", "mlp"), dtype=config.dtype, name="alone_user")(user)[:, None, None]
    both = MLP((config.mlp_width, config.width, 2), config.dtype, name="alone")(RMSNorm(name="alone_norm")(h))
    return {"poi_alone": both[..., 0].astype(jnp.float32), "creative_alone": both[..., 1].astype(jnp.float32)}

  def _items(self, encoder, user, request, catalog, items, deterministic):
    """Returns f[B, U, K, d]: candidates are embedded once, unless the lists hold fewer entries than candidates."""
    batch, entries = items.shape[0], items.shape[1] * items.shape[2]
    if entries < request.candidates.shape[1]:
      flat = items.reshape(batch, entries)
      pois = positions_to_ids(request.candidates, flat)
      is_ad = take_rows(request.is_ad, flat)
      h = encoder.items(user, request, catalog, pois, is_ad, deterministic=deterministic)
      return h.reshape(*items.shape, -1)
    h = encoder.items(user, request, catalog, request.candidates, request.is_ad, deterministic=deterministic)
    return take_rows(h, items)

  def _enter_list(self, h, sums, present):
    """Returns (h, base logits): positions, pair sums, and the clicks expected above by a first list-unaware guess."""
    config, length = self.config, present.shape[-1]
    table = partitioned(nn.initializers.normal(0.1), (None, "embed"))
    position = self.param("position", table, (config.max_positions, config.width))[:length]
    guess = Dense(3, names=("embed", None), dtype=config.dtype, name="guess")(h).astype(jnp.float32)
    guess = guess + Dense(3, names=(None, None), use_bias=False, name="pair_guess")(sums)
    clicks = jnp.where(present, nn.sigmoid(guess[..., 0]), 0.0)
    above = (jnp.cumsum(clicks, axis=-1) - clicks)[..., None]
    extra = jnp.concatenate([sums, above, clicks[..., None]], axis=-1).astype(h.dtype)
    extra = Dense(config.width, names=(None, "embed"), dtype=config.dtype, name="extra")(extra)
    h = h + position.astype(h.dtype) + extra
    return jnp.where(present[..., None], h, 0.0), guess

  def _towers(self, h, user, present, base):
    """Returns the three logits per item (EGA Eq. 20): towers over [h_i ; mean_j h_j ; user ; position]."""
    config = self.config
    count = jnp.maximum(jnp.sum(present, axis=-1, keepdims=True), 1)[..., None]
    mean = jnp.sum(jnp.where(present[..., None], h, 0.0), axis=-2, keepdims=True) / count
    table = partitioned(nn.initializers.normal(0.1), (None, "mlp"))
    logits = {}
    for i, name in enumerate(HEADS):
      # One linear map of the concatenation, written as a sum: the mean and the user are projected once.
      hidden = Dense(config.width, dtype=config.dtype, name=f"{name}_item")(h)
      for part, x in (("list", mean), ("user", user[:, None, None])):
        hidden = hidden + Dense(config.width, use_bias=False, dtype=config.dtype, name=f"{name}_{part}")(x)
      position = self.param(f"{name}_position", table, (config.max_positions, config.width))[: h.shape[-2]]
      hidden = nn.relu(hidden + position.astype(hidden.dtype))
      out = Dense(1, names=("mlp", None), dtype=config.dtype, name=f"{name}_out")(hidden)[..., 0]
      logits[name] = jnp.where(present, out.astype(jnp.float32) + base[..., i], 0.0)
    return logits


class RewardModel(nn.Module):
  """Click logits of the items of U lists of each request: the mean of `config.members` models that differ by their
  initialisation and dropout.

  Lists are chosen because the model thinks highly of them: what one fit makes of noise would be chosen too, and much of
  it cancels in the mean of a few.
  """

  config: EncoderConfig

  @nn.compact
  def __call__(self, request, catalog, items, creatives, *, deterministic=True, alone=False, each=False):
    """Returns {"poi", "creative", "conversion", "poi_alone", "creative_alone"}: logits f32[B, U, K]; 0 where absent.

    The last two are blind to the list: what an item gets in the lists that are shown, on average over its neighbours. A
    list of one item would not tell: no such list is ever logged.

    Args: items i32[B, U, K] positions in the candidates; creatives i32[B, U, K] creative ids; -1 for absent.
    alone: only the last two, of each entry as if it stood first.
    each: f32[members, B, U, K] instead of the mean, uncalibrated: what training fits.
    """
    request, catalog = jax.tree.map(jnp.asarray, (request, catalog))
    members = nn.vmap(
      Member, in_axes=None, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True},
      axis_size=self.config.members, metadata_params={nn.PARTITION_NAME: None},
    )  # fmt: skip
    logits = members(self.config, deterministic, alone, name="members")(request, catalog, items, creatives)
    if each:
      return logits
    logits = {name: jnp.mean(logit, axis=0) for name, logit in logits.items()}
    return logits if alone else {**logits, "poi": self._calibrate(logits["poi"], request, items)}

  def _calibrate(self, logit, request, items):
    """Returns logit * scale + bias[is_ad, position]; the identity until `fit_calibration`'s leaves are set."""
    if not self.config.calibrated:
      return logit
    calibration = Calibration(self.config.max_positions, name="calibration")()
    return apply_calibration(calibration, logit, take_rows(request.is_ad, items), items >= 0)
