"""Mechanisms: functions of bids f[B, G, N] (or f[..., N]) that return types.Outcome. numpy, float64, exact.

VCG (bid-0 pivot), VCG over a range and Myerson's optimum are one thing: the shown list maximises offset + sum_i
phi_i(b_i) theta_i, with phi the identity or the ironed virtual value, and ad i pays b_i x_i - int_0^{b_i} x_i(z) dz
(Myerson 1981; an affine maximiser is monotone in every bid, so this is exactly truthful).
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from ega_jax import types
from ega_jax.auction import allocation, envelope, values
from ega_jax.auction import market as market_lib
from ega_jax.auction.regret import CounterfactualTable

_CHUNK = 1_000_000  # numbers of an intermediate [rows, lists] array


@dataclasses.dataclass(frozen=True)
class Identity:
  """The virtual value of welfare maximisation: the bid itself, from 0 up."""

  slope = 1.0
  lowest = 0.0

  def virtual_value(self, value, ironed=True):
    """Returns the value: what is maximised is welfare."""
    return np.asarray(value, np.float64)

  def inverse_virtual_value(self, virtual):
    """Returns the least bid that counts as much, at least 0."""
    return np.maximum(0.0, virtual)


@dataclasses.dataclass(frozen=True, eq=False)
class Maximiser:
  """The truthful mechanism of an affine maximiser over lists.

  Attributes:
    theta: f64[L, N], or f64[B, L, N] for bids [B, G, N].
    virtual: one transform per ad: `Identity()` or a value distribution.
    offset: f64[..., L] or None, the part of the score that no bid moves.
    clicks: theta under which the outcome is reported, where it is not the one that choice and payment believe.
    lists: i[..., L, K], the ads of each list in slot order, -1 padded; only for `shown_lists`.
  """

  theta: Any
  virtual: tuple
  offset: Any = None
  clicks: Any = None
  lists: Any = None

  def shown_lists(self, bids):
    """Returns i[..., K]: the ads of the shown list in slot order, -1 padded."""
    phi = values.virtual_values(self.virtual, bids)
    return self.lists[allocation.list_scores(self.theta, phi, self.offset).argmax(-1)]

  def __call__(self, bids):
    """Returns the Outcome of bids f[..., N], [B, G, N] where theta is [B, L, N]: x of the shown list, and the Myerson
    price per click, in [0, bid].
    """
    bids = np.asarray(bids, np.float64)
    if self.theta.ndim == 2:
      run = functools.partial(self._outcome, *self._lists(None))
      x, price = _in_chunks(run, (bids.reshape(-1, bids.shape[-1]),), len(self.theta))
    else:
      each = [self._outcome(*self._lists(b), bids[b]) for b in range(len(bids))]
      x, price = (np.stack(leaf) for leaf in zip(*each, strict=True))
    return types.Outcome(click_probability=x.reshape(bids.shape), price=price.reshape(bids.shape))

  def _outcome(self, theta, offset, clicks, bids):
    """Returns (x, price) f[P, N] of profiles f[P, N]."""
    scores = allocation.list_scores(theta, values.virtual_values(self.virtual, bids), offset)
    index = scores.argmax(-1)
    x, paid = theta[index], np.zeros(bids.shape)
    for ad in range(bids.shape[1]):
      rows = np.nonzero(x[:, ad] > 0)[0]
      if len(rows):
        bid = bids[rows, ad]
        intercept = scores[rows] - self.virtual[ad].virtual_value(bid)[:, None] * theta[:, ad]
        paid[rows, ad] = self._payment(self.virtual[ad], intercept, theta[:, ad], bid, index[rows])
    return (x if clicks is None else clicks[index]), self._per_click(paid, x, bids)

  def _per_click(self, paid, x, bids):
    """Returns prices per click of expected payments at clicks x; 0 where there are none."""
    return np.clip(np.divide(paid, x, out=np.zeros_like(x), where=x > 0), 0.0, bids)

  def _payment(self, virtual, intercept, slope, bid, chosen):
    """Returns the expected payment f[R] of one ad that bids f[R] and is shown in the list `chosen` i[R].

    Where the virtual value is affine in the bid the integral of x is a difference of the maximum W (whose derivative is
    x); elsewhere it is summed over the exact breakpoints of the envelope.
    """
    if virtual.slope is None:
      breaks, slopes, _ = envelope.upper_envelope(intercept, slope, chosen)
      segment = np.zeros((len(bid), 1), int)
      return envelope.threshold_payment(breaks, slopes, segment, virtual.inverse_virtual_value, virtual.lowest)[:, 0]
    lowest = virtual.virtual_value(np.float64(virtual.lowest))
    best = intercept[np.arange(len(bid)), chosen] + virtual.virtual_value(bid) * slope[chosen]
    base = (intercept + lowest * slope).max(-1)
    return bid * slope[chosen] - (best - base) / virtual.slope

  def sweep(self, bids, ads, nodes):
    """Returns the CounterfactualTable, prices included, of moving one bid: the others' scores are summed once.

    Args: bids f[B, N]; ads i[B, A], -1 for none (x and price 0); nodes f[B, A, G], own bids.
    """
    bids, nodes = np.asarray(bids, np.float64), np.asarray(nodes, np.float64)
    x, price = np.zeros(nodes.shape), np.zeros(nodes.shape)
    phi = values.virtual_values(self.virtual, bids)
    shared = self.theta.ndim == 2
    # Auctions that move the same column of the same lists are swept together.
    groups = [np.nonzero(ads == ad) for ad in np.unique(ads[ads >= 0])]
    groups = groups if shared else [(b[None], at[None]) for b, at in np.argwhere(ads >= 0)]
    for rows in groups:
      ad, lists = ads[rows][0], self._lists(None if shared else rows[0][0])
      run = lambda others, own, ad=ad, lists=lists: self._sweep_ad(ad, *lists, others, own)
      width = self.theta.shape[-2] + 32 * nodes.shape[-1]
      x[rows], price[rows] = _in_chunks(run, (phi[rows[0]], nodes[rows]), width)
    return CounterfactualTable(nodes=nodes, x=x, ads=ads, price=price)

  def _lists(self, request):
    """Returns (theta f[L, N], offset f[L], clicks f[L, N]) of one request, or those that all share (None)."""
    leaves = (self.theta, self.offset, self.clicks)
    return leaves if request is None else tuple(None if leaf is None else leaf[request] for leaf in leaves)

  def _sweep_ad(self, ad, theta, offset, clicks, phi, nodes):
    """Returns (x, price) f[R, G] of one ad at own bids `nodes` f[R, G], the others at virtual bids phi f[R, N]."""
    others = phi.copy()
    others[:, ad] = 0.0
    virtual, slope = self.virtual[ad], theta[:, ad]
    breaks, slopes, lines = envelope.upper_envelope(allocation.list_scores(theta, others, offset), slope)
    own = virtual.virtual_value(nodes)
    segment = envelope.segment_of(breaks, own)
    take = lambda leaf: np.where(np.isfinite(own), np.take_along_axis(leaf, segment, axis=-1), 0.0)
    x = take(slopes)
    paid = self._swept_payment(virtual, breaks, slopes, segment, nodes)
    return (x if clicks is None else take(clicks[lines, ad])), self._per_click(paid, x, nodes)

  def _swept_payment(self, virtual, breaks, slopes, segment, nodes):
    return envelope.threshold_payment(breaks, slopes, segment, virtual.inverse_virtual_value, virtual.lowest)


class FirstPrice(Maximiser):
  """The same choice at the bids, every shown ad paying its bid."""

  def _payment(self, virtual, intercept, slope, bid, chosen):
    return bid * slope[chosen]

  def _swept_payment(self, virtual, breaks, slopes, segment, nodes):
    return nodes * np.take_along_axis(slopes, segment, axis=-1)

  def _per_click(self, paid, x, bids):
    return np.where(x > 0, bids, 0.0)  # exactly: utility at the truth is 0, not what rounding leaves of b * x / x


def _in_chunks(function, rows, width):
  """Returns function(*rows) leaf by leaf, run on blocks of rows so that [rows, width] stays bounded."""
  size = max(1, _CHUNK // max(width, 1))
  starts = range(0, max(len(rows[0]), 1), size)
  parts = [function(*(leaf[start : start + size] for leaf in rows)) for start in starts]
  return tuple(np.concatenate(leaf) for leaf in zip(*parts, strict=True))


def vcg(theta, *, offset=None, lists=None):
  """Returns VCG over the lists theta f[..., L, N]: the pivot is "bid_i := 0, all lists allowed".

  Over all ordered lists it is VCG; over lists generated without looking at bids it is `vcg_range`, exactly truthful too
  (our decision): P_i = max_A score(A; b_i = 0) - (score(A*) - b_i theta_i(A*)). offset, lists: as in `myerson`.
  """
  theta = np.asarray(theta, np.float64)
  return Maximiser(theta, (Identity(),) * theta.shape[-1], offset, lists=lists)


vcg_range = vcg


def myerson(theta, distributions, *, offset=None, clicks=None, lists=None):
  """Returns the revenue-optimal truthful mechanism over the lists theta f[..., L, N] (ironed where needed).

  Args:
    theta: click probabilities of the lists, all ordered lists of length 0..K for the optimum R*.
    distributions: one value distribution per ad.
    offset: f[..., L] or None.
    clicks: true theta, where `theta` is only what choice and payment believe (separable_myerson).
    lists: i[L, K], for `shown_lists`.
  """
  clicks = None if clicks is None else np.asarray(clicks, np.float64)
  return Maximiser(np.asarray(theta, np.float64), tuple(distributions), offset, clicks, lists)


def first_price(theta, *, offset=None, lists=None):
  """Returns the welfare-maximising list at the bids, every shown ad paying its bid. theta, offset, lists: as in
  `myerson`.
  """
  theta = np.asarray(theta, np.float64)
  return FirstPrice(theta, (Identity(),) * theta.shape[-1], offset, lists=lists)


@dataclasses.dataclass(frozen=True, eq=False)
class GeneralisedSecondPrice:
  """Rank by quality * bid; pay next's quality * bid / own quality, at least the reserve and at most the bid.

  Attributes:
    quality: f64[N]; an ad of quality 0 comes last, is not clicked, and still has neighbours.
    slots: K.
    click_probability: function of lists i[P, K] (ads in slot order, -1 padded) -> f[P, N].
    reserve: f64[N], per click; ads below theirs do not take part.
  """

  quality: Any
  slots: int
  click_probability: Any
  reserve: Any

  def _ranked(self, bids):
    """Returns i[..., K + 1]: who is shown, and who is next."""
    return allocation.ranked_lists(bids * self.quality, self.slots + 1, bids >= self.reserve)

  def shown_lists(self, bids):
    """Returns i[..., K]: the ads of the shown list in slot order, -1 padded."""
    return self._ranked(np.asarray(bids, np.float64))[..., : self.slots]

  def __call__(self, bids):
    """Returns the Outcome of bids f[..., N]; prices per click, 0 where not shown."""
    bids = np.asarray(bids, np.float64)
    flat = bids.reshape(-1, bids.shape[-1])
    ranked = self._ranked(flat)
    score = np.where(ranked >= 0, np.take_along_axis(flat * self.quality, np.maximum(ranked, 0), -1), 0.0)
    ads, shown = np.maximum(ranked[:, : self.slots], 0), ranked[:, : self.slots] >= 0
    own = np.where(shown & (self.quality[ads] > 0), self.quality[ads], 1.0)
    each = np.minimum(np.maximum(score[:, 1:] / own, self.reserve[ads]), np.take_along_axis(flat, ads, -1))
    price = np.zeros(flat.shape)
    np.add.at(price, (np.arange(len(flat))[:, None], ads), np.where(shown, each, 0.0))
    x = self.click_probability(ranked[:, : self.slots])
    price = np.where(x > 0, price, 0.0)
    return types.Outcome(click_probability=x.reshape(bids.shape), price=price.reshape(bids.shape))


def gsp(quality, slots, click_probability, *, reserve=0.0):
  """Returns the generalised second-price auction (`GeneralisedSecondPrice`).

  Args: quality f[N], slots, click_probability: its attributes; reserve f[] or f[N], per click.
  """
  quality = np.asarray(quality, np.float64)
  reserve = np.broadcast_to(np.asarray(reserve, np.float64), quality.shape)
  return GeneralisedSecondPrice(quality, slots, click_probability, reserve)


def myerson_reserves(distributions):
  """Returns f64[N]: the bid at which each ad's ironed virtual value reaches 0."""
  return np.array([float(one.inverse_virtual_value(np.float64(0.0))) for one in distributions])


def slot_threshold_gsp(nodes, slot, x):
  """Returns per-click prices f[B, A, G]: the least own bid, connected to the node, that keeps the slot or a better one.

  GSP for any allocation (our decision); equals GSP on an eCPM ranking, up to half the width of the nodes: the least bid
  lies between the last node that keeps the slot and the one below, of which the middle is charged. The upper one would
  be too much on average, the own bid itself wherever a competitor's is in the own interval.

  Args:
    nodes: f[B, A, G], own bids of a counterfactual table.
    slot: i[B, A, G], the ad's slot at each node, larger than any slot where it is not shown (`regret.own_slot`).
    x: f[B, A, G]: where it is 0 the price is 0.
  """
  nodes, slot = np.asarray(nodes, np.float64), np.asarray(slot)
  middle = nodes.copy()
  middle[..., 1:] = (nodes[..., 1:] + nodes[..., :-1]) / 2
  price, connected = middle.copy(), np.ones(slot.shape, bool)
  for back in range(1, nodes.shape[-1]):
    connected[..., :back] = False
    connected[..., back:] &= slot[..., :-back] <= slot[..., back:]
    if not connected.any():
      break
    price[..., back:] = np.where(connected[..., back:], middle[..., :-back], price[..., back:])
  return np.where(np.asarray(x) > 0, price, 0.0)


def with_price(allocate, price):
  """Returns the mechanism that shows what allocate(bids) -> (x, payload) shows at price(bids, x, payload) per click."""

  def mechanism(bids):
    x, payload = allocate(bids)
    return types.Outcome(click_probability=x, price=price(bids, x, payload))

  return mechanism


NAMES = ("myerson", "vcg", "vcg_range", "gsp", "gsp_reserve", "first_price", "separable_myerson")


def on_market(market, *, reserve=None, range_size=32):
  """Returns name -> mechanism factory (no arguments), for every name of NAMES, over a Market's ordered lists.

  Args:
    market: `market.Market`.
    reserve: of gsp (None: 0) and, where given, of gsp_reserve in place of each ad's Myerson reserve.
    range_size: full-length lists in vcg_range, besides the empty one.
  """
  lists = market_lib.ordered_lists(market.num_ads, market.slots)
  theta = market_lib.click_probabilities(market, lists)
  rows = allocation.range_of(theta, lists, range_size)
  clicks = functools.partial(market_lib.click_probabilities, market)
  ranked = functools.partial(gsp, market.quality, market.slots, clicks)
  own_reserve = lambda: myerson_reserves(market.distributions) if reserve is None else reserve
  believed = lambda: clicks(lists, externalities=False)
  return {
    "myerson": lambda: myerson(theta, market.distributions, lists=lists),
    "vcg": lambda: vcg(theta, lists=lists),
    "vcg_range": lambda: vcg_range(theta[rows], lists=lists[rows]),
    "gsp": lambda: ranked(reserve=0.0 if reserve is None else reserve),
    "gsp_reserve": lambda: ranked(reserve=own_reserve()),
    "first_price": lambda: first_price(theta, lists=lists),
    "separable_myerson": lambda: myerson(believed(), market.distributions, clicks=theta, lists=lists),
  }
