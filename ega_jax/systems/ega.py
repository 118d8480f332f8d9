"""EGA as it is served: bids inside decoding, the best of N_S lists by the reward model (EGA Eq. 21-24)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.decoding.beam import ListConfig, generate_lists
from ega_jax.decoding.lists import allocate_in_chunks
from ega_jax.systems import generation
from ega_jax.systems.choice import Options, believe, choose, choose_own_bid, score_bids, token_bids
from ega_jax.systems.creatives import Creatives, by_item, choose_items
from ega_jax.systems.distinct import ListClicks, score_lists
from ega_jax.systems.kept import Kept
from ega_jax.systems.profiles import (
  OwnBidLists,
  cells_between,
  own_bid_cells,
  own_bid_profiles,
  present_columns,
  propose_own_bids,
)
from ega_jax.systems.rows import at_items
from ega_jax.types import Request, Slate

PREPARED = 2**28  # bytes of prepared requests that are kept: some 900 of New York
FULL_SWEEP = 8  # ads of a request whose own-bid curves take all of `sweep_prefixes`


@functools.partial(jax.jit, static_argnames=("models",))
def _prepare(models, params, request):
  return generation.prepare(models, params, request)


_charged = jax.jit(generation.charged)


@functools.partial(jax.jit, static_argnames=("models", "options"))
def _propose(models, options, params, prepared, bids, lists):
  """Returns Lists of every profile bids f32[B, G, C]."""
  config = generation.in_market(lists, params["market"])
  length = config.list_length * prepared.table.codes.shape[-1]
  decoder = generation.decoder(models, params, prepared.memory, length)
  if options.bid_free:
    expected = generation.expected_bids(prepared.request, options.value_sigma)[:, None]
    found = generate_lists(decoder, prepared.table, expected, prepared.prior, config)
    spread = lambda leaf: jnp.broadcast_to(leaf, (leaf.shape[0], bids.shape[1], leaf.shape[2]))
    return dataclasses.replace(found, index=spread(found.index), log_z=spread(found.log_z))
  worth = token_bids(options, score_bids(options, prepared.request, bids))
  return generate_lists(decoder, prepared.table, worth, prepared.prior, config)


class EGASystem:
  """EGA's allocation as a system: `allocate(batch, bids) -> Slate`, and `sweep` for own-bid curves.

  Args:
    models: generation.Models.
    params: the tree with "catalog", "ids", "generator", "reward", "market".
    lists: ListConfig of one profile; `sweep_prefixes` slots are used for sweeps.
    options: how bids are used; None: the defaults.
    shared: (ListClicks of sweeps and bid-free lists, Creatives, Kept prepared requests): what the same system at other
      ad loads shares; None: its own.
  """

  def __init__(self, name, models, params, lists: ListConfig, options=None, *, sweep_prefixes=1024, shared=None):
    self.name = name
    self._shared = shared or (ListClicks(models, params), Creatives(models, params), Kept(PREPARED))
    self._clicks, self._creatives, self._requests = self._shared
    self.models, self.params, self.options = models, params, options or Options()
    if self.options.bid_free:
      lists = dataclasses.replace(lists, bid_cell=1.0)  # cells are for reports: expected values are none
    self._kept = Kept()
    self.lists = dataclasses.replace(lists, max_prefixes=0)
    self.sweep_lists = dataclasses.replace(lists, max_prefixes=max(sweep_prefixes, lists.num_lists))

  @property
  def knob(self):
    """The price of an ad slot in median bids, by which the ad load is set."""
    return float(self.params["market"]["slot_price"])

  def with_knob(self, slot_price):
    """Returns the same system at another ad load."""
    params, prefixes = generation.at_slot_price(self.params, slot_price), self.sweep_lists.max_prefixes
    return EGASystem(
      self.name, self.models, params, self.lists, self.options, sweep_prefixes=prefixes, shared=self._shared
    )

  def forget(self):
    """Drops what is kept of earlier calls, at other ad loads too; it is computed anew when asked for."""
    for kept in (self._kept, *self._shared):
      kept.forget()

  @property
  def objective(self):
    """What score(Y) sets against bids, in money."""
    return generation.host_objective(self.params)

  @property
  def learned(self):
    """The learned arrays that an allocation reads."""
    return [self.params[part] for part in ("generator", "reward")]

  def allocate(self, batch, bids) -> Slate:
    """Returns the Slate [B, G, K] of bids f[B, G, C] per click."""
    bids = jnp.asarray(bids, jnp.float32)
    prepared, found = self._lists(batch, bids)
    return self._slate(prepared, found, bids)

  def propose(self, batch, bids):
    """Returns (Lists, creatives i32[B, U, K], theta f32[B, U, K]): what `allocate` chooses from at bids f[B, G, C]."""
    prepared, found = self._lists(batch, jnp.asarray(bids, jnp.float32))
    return found, *self._believe(prepared, found.items)

  def _lists(self, batch, bids):
    prepared = self._prepared(Request.from_batch(batch))
    config = self.lists if bids.shape[1] == 1 or self.options.bid_free else self.sweep_lists
    propose = lambda some: _propose(self.models, self.options, self.params, prepared, some, config)
    return prepared, allocate_in_chunks(propose, bids)

  def _prepared(self, request):
    """Returns the Prepared of a request, which is computed once for all ad loads while it is kept."""
    found = self._requests.get(request, lambda: _prepare(self.models, self.params, request))
    return _charged(found, self.params["market"])

  def programs(self, batch, bids):
    """Yields (jitted function, its arguments) of one allocation: what it computes, for counting."""
    request, bids = Request.from_batch(batch), jnp.asarray(bids, jnp.float32)
    prepared, found = self._lists(batch, bids)
    yield functools.partial(_prepare, self.models), (self.params, request)
    yield functools.partial(_propose, self.models, self.options), (self.params, prepared, bids, self.lists)
    if not by_item(self.models):
      yield functools.partial(believe, self.models), (self.params, prepared, found.items)
      return
    positions = Creatives.unknown(np.full(prepared.table.valid.shape, -1, np.int32), found.items)
    yield functools.partial(choose_items, self.models), (self.params, prepared, positions)
    yield from self._clicks.programs(request, found.items, self._creatives(prepared, found.items))

  def sweep(self, batch, bids, ads, nodes) -> Slate:
    """Returns the Slate [B, A, G, K] of own bids nodes f[B, A, G] of ads i[B, A], the others at bids f[B, C].

    What is kept are the lists of every bid that proposals do not tell apart from `nodes`: payment rules, audit and
    equilibrium ask for the same curves at other bids.
    """
    request, bids, ads = Request.from_batch(batch), jnp.asarray(bids, jnp.float32), np.asarray(ads, np.int32)
    num_ads = int((ads >= 0).sum(1).max(initial=1))
    columns, back = present_columns(ads)
    ads = jnp.asarray(np.take_along_axis(ads, columns, 1))
    nodes = jnp.asarray(np.take_along_axis(nodes, columns[..., None], 1), jnp.float32)
    cells = self._cells(request, ads, nodes)
    between = lambda: cells_between(cells, generation.in_market(self.lists, self.params["market"]))
    find = lambda: self._own_bid_lists(request, bids, ads, between(), num_ads)
    lists = self._kept.get((request, bids, ads), find, lambda known: known.place(cells) is not None)
    slate = choose_own_bid(
      self.options, request, lists.found, lists.creatives, lists.theta, bids, ads, nodes,
      jnp.asarray(lists.place(cells)), self.objective,
    )  # fmt: skip
    return jax.tree.map(lambda leaf: np.take_along_axis(np.asarray(leaf), back[..., None, None], 1), slate)

  def _own_bid_lists(self, request, bids, ads, cells, num_ads) -> OwnBidLists:
    """Returns the lists of ads i32[B, A] whose own bids proposals see as cells f32[B, A, D].

    num_ads: the most that a request has. Time goes by slots, and few ads bring forth few prefixes; where they do not
    fit the ads are halved, down to one with all slots.
    """
    prepared = self._prepared(request)
    if self.options.bid_free:
      profiles = own_bid_profiles(bids, ads, jnp.asarray(cells))
      found = _propose(self.models, self.options, self.params, prepared, profiles, self.lists)
    else:
      slots = self.sweep_lists.max_prefixes * min(-(-num_ads // 2) * 2, FULL_SWEEP) // FULL_SWEEP
      few = dataclasses.replace(self.sweep_lists, max_prefixes=max(slots, self.lists.num_lists))

      def propose(ads, cells):
        lists = self.sweep_lists if ads.shape[1] == 1 else few
        return propose_own_bids(self.models, self.options, self.params, prepared, bids, ads, cells, lists)

      found = allocate_in_chunks(propose, ads, jnp.asarray(cells))
    return OwnBidLists(cells, found, *self._believe(prepared, found.items, many=True))

  def _cells(self, request, ads, nodes):
    """Returns f32[B, A, G]: what proposals see of the own bids."""
    nodes = jnp.asarray(nodes, jnp.float32)
    if self.options.bid_free:
      return np.zeros(nodes.shape, np.float32)
    return np.asarray(own_bid_cells(self.options, request, self.params["market"], nodes, ads, self.lists))

  def _believe(self, prepared, items, many=False):
    """Returns (creatives i32[B, U, K], theta f32[B, U, K]) of lists. Those of a sweep are scored once per request, and
    so are bid-free ones, whose pivot payments are differences of scores: a list has one theta there, to the last bit.
    """
    if not by_item(self.models):
      return believe(self.models, self.params, prepared, items)
    items, creative_of = np.asarray(items), self._creatives(prepared, items)
    own = at_items(creative_of, items, -1)
    if many or self.options.bid_free:
      return own, self._clicks(prepared.request, items, creative_of)
    return own, score_lists(self.models, self.params, prepared.request, items, own)

  def _slate(self, prepared, found, bids):
    creatives, theta = self._believe(prepared, found.items)
    slate = choose(self.options, prepared.request, found, creatives, theta, bids, self.objective)
    return jax.tree.map(np.asarray, slate)
