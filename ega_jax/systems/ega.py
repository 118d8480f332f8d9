"""EGA as it is served: bids inside decoding, the best of N_S lists by the reward model (EGA Eq. 21-24)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.auction.bidding import lognormal_virtual_bid
from ega_jax.decoding.beam import ListConfig, generate_lists, own_bid_sweep
from ega_jax.decoding.lists import allocate_in_chunks, take_rows
from ega_jax.decoding.slate import best_of
from ega_jax.systems import generation
from ega_jax.types import Request, Slate


@dataclasses.dataclass(frozen=True)
class Options:
  """How EGA uses bids; hashable.

  bid_free: lists are generated from the ads' expected values; bids only choose among them (vcg_range's allocation).
  virtual: ironed virtual values in the list score, their positive part in the token weights.
  value_sigma: log-sd of a value per click given the request, known to the platform.
  """

  bid_free: bool = False
  virtual: bool = False
  value_sigma: float = 0.6


@functools.partial(jax.jit, static_argnames=("models",))
def _prepare(models, params, request):
  return generation.prepare(models, params, request)


def _score_bids(options, request, bids, ads=None):
  """Returns what an ad is worth to the list score: its bid, or its virtual bid (negative ones count)."""
  if not options.virtual:
    return bids
  mu = request.value_mu if ads is None else jnp.take_along_axis(request.value_mu, jnp.maximum(ads, 0), axis=1)
  return lognormal_virtual_bid(bids, mu[:, None] if ads is None else mu[..., None], options.value_sigma)


def _proposal_bids(options, bids):
  return jnp.maximum(bids, 0.0) if options.virtual else bids


@functools.partial(jax.jit, static_argnames=("models", "options"))
def _propose(models, options, params, prepared, bids, lists, organic_scale):
  """Returns Lists of every profile bids f32[B, G, C]."""
  config = generation.in_market(lists, params["market"], organic_scale)
  length = config.list_length * prepared.table.codes.shape[-1]
  decoder = generation.decoder(models, params, prepared.memory, length)
  if options.bid_free:
    expected = generation.expected_bids(prepared.request, options.value_sigma)[:, None]
    found = generate_lists(decoder, prepared.table, expected, prepared.prior, config)
    spread = lambda leaf: jnp.broadcast_to(leaf, (leaf.shape[0], bids.shape[1], leaf.shape[2]))
    return dataclasses.replace(found, index=spread(found.index), log_z=spread(found.log_z))
  worth = _proposal_bids(options, _score_bids(options, prepared.request, bids))
  return generate_lists(decoder, prepared.table, worth, prepared.prior, config)


@functools.partial(jax.jit, static_argnames=("models", "options"))
def _sweep(models, options, params, prepared, bids, ads, nodes, lists, organic_scale):
  """Returns Lists of the profiles (ad, node), bids f32[B, C] elsewhere."""
  config = generation.in_market(lists, params["market"], organic_scale)
  length = config.list_length * prepared.table.codes.shape[-1]
  decoder = generation.decoder(models, params, prepared.memory, length)
  request = prepared.request
  base = _proposal_bids(options, _score_bids(options, request, bids[:, None])[:, 0])
  moved = _proposal_bids(options, _score_bids(options, request, nodes, ads))
  return own_bid_sweep(decoder, prepared.table, base, ads, moved, prepared.prior, config)


@functools.partial(jax.jit, static_argnames=("models",))
def _believe(models, params, prepared, items):
  """Returns (creatives i32[B, U, K], theta f32[B, U, K]) of distinct lists."""
  creatives = generation.list_creatives(models, params, prepared, items)
  return creatives, generation.click_probabilities(models, params, prepared.request, items, creatives)


@functools.partial(jax.jit, static_argnames=("options",))
def _choose(options, request, found, creatives, theta, bids, organic_weight):
  """Returns the Slate of every profile: the best list by score(Y) (EGA Eq. 24)."""
  worth = _score_bids(options, request, bids)
  items, chosen, _ = best_of(found, theta, worth, request.is_ad, organic_weight)
  exists = items >= 0
  shown = jnp.where(exists, take_rows(creatives, chosen), -1)
  return Slate(items=items, creatives=shown, click_probability=jnp.where(exists, take_rows(theta, chosen), 0.0))


class EGASystem:
  """EGA's allocation as a system: `allocate(batch, bids) -> Slate`, and `sweep` for own-bid curves.

  Args:
    models: generation.Models.
    params: the tree with "catalog", "ids", "generator", "reward", "market".
    lists: ListConfig of one profile; `sweep_prefixes` slots are used for sweeps.
    organic_scale: the knob of the ad share: multiplies what an organic click is worth, in the score and in tokens.
      None: the one fitted on validation, a leaf of params["market"].
  """

  def __init__(self, name, models, params, lists: ListConfig, options=None, *, organic_scale=None, sweep_prefixes=1024):
    self.name = name
    self.models, self.params, self.options = models, params, options or Options()
    self.lists = dataclasses.replace(lists, max_prefixes=0)
    self.sweep_lists = dataclasses.replace(lists, max_prefixes=max(sweep_prefixes, lists.num_lists))
    self.organic_scale = float(params["market"].get("organic_scale", 1.0)) if organic_scale is None else organic_scale

  def with_knob(self, organic_scale):
    """Returns the same system at another ad load."""
    return EGASystem(
      self.name, self.models, self.params, self.lists, self.options,
      organic_scale=organic_scale, sweep_prefixes=self.sweep_lists.max_prefixes,
    )  # fmt: skip

  @property
  def organic_weight(self):
    """What a click on an organic item is worth in score(Y), in money."""
    return float(self.params["market"]["organic_weight"]) * self.organic_scale

  def allocate(self, batch, bids) -> Slate:
    """Returns the Slate [B, G, K] of bids f[B, G, C] per click."""
    bids = jnp.asarray(bids, jnp.float32)
    prepared, found = self._lists(batch, bids)
    return self._slate(prepared, found, bids)

  def propose(self, batch, bids):
    """Returns (Lists, creatives i32[B, U, K], theta f32[B, U, K]): what `allocate` chooses from."""
    prepared, found = self._lists(batch, jnp.asarray(bids, jnp.float32))
    return found, *_believe(self.models, self.params, prepared, found.items)

  def _lists(self, batch, bids):
    prepared = _prepare(self.models, self.params, Request.from_batch(batch))
    config = self.lists if bids.shape[1] == 1 or self.options.bid_free else self.sweep_lists
    propose = lambda some: _propose(self.models, self.options, self.params, prepared, some, config, self.organic_scale)
    return prepared, allocate_in_chunks(propose, bids)

  def sweep(self, batch, bids, ads, nodes) -> Slate:
    """Returns the Slate [B, A, G, K] of own bids nodes f[B, A, G] of ads i[B, A], the others at bids f[B, C]."""
    request, bids = Request.from_batch(batch), jnp.asarray(bids, jnp.float32)
    ads, nodes = jnp.asarray(ads, jnp.int32), jnp.asarray(nodes, jnp.float32)
    prepared = _prepare(self.models, self.params, request)
    shape = nodes.shape
    profiles = _profiles(bids, ads, nodes)
    if self.options.bid_free:
      lists, organic_scale = self.lists, self.organic_scale
      found = _propose(self.models, self.options, self.params, prepared, profiles, lists, organic_scale)
    else:
      sweep = lambda ads, nodes: _sweep(
        self.models, self.options, self.params, prepared, bids, ads, nodes, self.sweep_lists, self.organic_scale
      )  # fmt: skip
      found = allocate_in_chunks(sweep, ads, nodes)
    slate = self._slate(prepared, found, profiles)
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, leaf.shape[-1]), slate)

  def _slate(self, prepared, found, bids):
    creatives, theta = _believe(self.models, self.params, prepared, found.items)
    weight = jnp.float32(self.organic_weight)
    slate = _choose(self.options, prepared.request, found, creatives, theta, bids, weight)
    return jax.tree.map(np.asarray, slate)


@jax.jit
def _profiles(bids, ads, nodes):
  """Returns f32[B, A * G, C]: bids with ad a at node g."""
  batch, num_ads, num_nodes = nodes.shape
  profiles = jnp.broadcast_to(bids[:, None, None], (batch, num_ads, num_nodes, bids.shape[-1]))
  own = (jnp.arange(bids.shape[-1]) == ads[..., None])[:, :, None]
  return jnp.where(own, nodes[..., None], profiles).reshape(batch, num_ads * num_nodes, -1)
