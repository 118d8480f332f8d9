"""Own-bid counterfactual tables, the Myerson integral over them, and ex-post regret.

An auction outcome is a function of bids. Whatever computes it (a brute-force oracle, the trained generator, a cascade,
a user's own function) is audited here by re-running it with one ad's bid replaced and the others fixed:
`counterfactual_table`. Everything else is arithmetic on that table, in float64 numpy.

The nodes are absolute own bids (our decision): a grid of multiples of the report is another grid for
every report, and no payment over it is truthful.
"""

from typing import Any

import numpy as np

from ega_jax import types
from ega_jax.auction import least_regret as program

__all__ = [
  "CounterfactualTable", "Payments", "Regret", "counterfactual_table", "ex_post_regret", "falls", "least_regret",
  "myerson_integral", "own_bid_nodes", "own_slot", "refine_table", "regret_table", "round_down", "summarise_regret",
  "take_node", "with_own_bid",
]


@types.record
class CounterfactualTable:
  """What an ad gets at each of its own bids, the others' bids fixed."""

  nodes: types.Array  # f[B, A, G]  own bids per click, non-decreasing, nodes[..., 0] = 0
  x: types.Array  # f[B, A, G]  click probability of the ad at the node, 0 where not shown
  ads: types.Array  # i[B, A]     the ad's column of the bids, -1 for none
  price: Any = None  # f[B, A, G] or None: per-click price, where `allocate` is a mechanism
  payload: Any = None  # pytree of [B, A, G, ...]: what else `allocate` returned per profile (the shown slate, say)


@types.record
class Payments:
  """Myerson payments of a table."""

  expected: types.Array  # f[B, A, G]  expected payment P(z_k), in [0, z_k x_k]
  price: types.Array  # f[B, A, G]  per click, P / x; 0 where x = 0
  clipped: types.Array  # bool[B, A, G]  where the integral fell outside [0, z_k x_k]: only above a fall of x


@types.record
class Regret:
  """Ex-post regret of one truthful report per (request, ad), in expected money."""

  regret: types.Array  # f[B, A]  best deviation's gain, >= 0
  utility: types.Array  # f[B, A]  (v - p) x at the truthful report
  payment: types.Array  # f[B, A]  p x at the truthful report
  best: types.Array  # f[B, A]  the bid of the best deviation


def own_bid_nodes(largest_value, num_nodes=64, *, span=2.0, spacing="linear"):
  """Returns absolute own bids f64[..., num_nodes], 0 = z_0 < .. < z_G = span * largest_value, one grid per ad.

  Args:
    largest_value: f[...], largest value of each ad (an upper quantile of its distribution where that is unbounded). It
      must not depend on the ad's report.
    num_nodes: nodes with 0 included; 64 or more where payments are computed from them.
    span: the last node as a multiple of the largest value.
    spacing: "linear", or "geometric": 0, then a constant ratio over the last two and a half decades (heavy-tailed
      values).

  Raises:
    ValueError: a largest value that is not positive and finite, fewer than 2 nodes, an unknown spacing.
  """
  largest_value = np.asarray(largest_value, np.float64)
  if not np.all(np.isfinite(largest_value) & (largest_value > 0)):
    raise ValueError(f"largest_value must be positive and finite, got {largest_value.min()}..{largest_value.max()}")
  if num_nodes < 2:
    raise ValueError(f"num_nodes must be at least 2, got {num_nodes}")
  if spacing == "linear":
    unit = np.linspace(0.0, 1.0, num_nodes)
  elif spacing == "geometric":
    unit = np.concatenate([[0.0], np.geomspace(10**-2.5, 1.0, num_nodes - 1)])
  else:
    raise ValueError(f'spacing must be "linear" or "geometric", got {spacing!r}')
  return span * largest_value[..., None] * unit


def round_down(bids, nodes):
  """Returns (index i[...], node f[...]): the highest node at or below each bid; node 0 for bids under the grid.

  Args:
    bids: f[...].
    nodes: f[..., G], non-decreasing.
  """
  nodes = np.asarray(nodes, np.float64)
  index = np.maximum((nodes <= np.asarray(bids, np.float64)[..., None]).sum(-1) - 1, 0)
  return index, take_node(nodes, index)


def take_node(values, index):
  """Returns values[..., index] f[...] of f[..., G] values at i[...] node indices."""
  return np.take_along_axis(np.asarray(values), np.asarray(index)[..., None], axis=-1)[..., 0]


def counterfactual_table(allocate, bids, ads, nodes, *, chunk=None):
  """Returns the CounterfactualTable of `allocate` under b_i := node for each ad of `ads`, the other bids fixed.

  An `allocate` with a method `sweep(bids, ads, nodes) -> CounterfactualTable` (one that knows a faster way to move a
  single bid) is asked for the table itself.

  Args:
    allocate: function of bids f[B, P, N], returning types.Outcome, types.Slate, click probabilities x f[B, P, N], or
      (x, payload) with payload leaves [B, P, ...].
    bids: f[B, N], per click.
    ads: i[B, A], the columns to move; -1 for none (their x is 0).
    nodes: f[B, A, G], absolute own bids.
    chunk: profiles P per call; the last call is padded to it. None: one call of all A * G.

  Raises:
    ValueError: shapes that do not fit, or a column outside the bids.
  """
  bids, ads, nodes = np.asarray(bids), np.asarray(ads), np.asarray(nodes)
  if ads.shape != nodes.shape[:2] or bids.shape[0] != ads.shape[0]:
    shapes = f"{bids.shape}, {ads.shape}, {nodes.shape}"
    raise ValueError(f"bids [B, N], ads [B, A] and nodes [B, A, G] do not fit: {shapes}")
  if ads.size and (ads.min() < -1 or ads.max() >= bids.shape[1]):
    raise ValueError(f"ads must be in -1..{bids.shape[1] - 1}, got {ads.min()}..{ads.max()}")
  if hasattr(allocate, "sweep"):
    return allocate.sweep(bids, ads, nodes)
  num_nodes = nodes.shape[2]
  total = nodes.shape[1] * num_nodes
  chunk = min(chunk or total, total)
  parts = []
  for start in range(0, total, chunk):
    profile = np.minimum(np.arange(start, start + chunk), total - 1)
    ad, own_bid = ads[:, profile // num_nodes], nodes.reshape(len(bids), total)[:, profile]
    result = _own_result(allocate(with_own_bid(bids, ad, own_bid)), ad)
    parts.append(_map(lambda leaf, keep=total - start: np.asarray(leaf)[:, :keep], result))
  join = lambda *leaves: np.concatenate(leaves, axis=1).reshape(nodes.shape + leaves[0].shape[2:])
  x, price, payload = _map(join, *parts)
  return CounterfactualTable(nodes=nodes, x=x, ads=ads, price=price, payload=payload)


def with_own_bid(bids, ads, own_bids):
  """Returns profiles [B, P, N]: `bids` [B, N] with column ads[b, p] replaced by own_bids[b, p] (unchanged where ads is
  -1)."""
  profiles = np.repeat(bids[:, None], ads.shape[1], axis=1).astype(np.result_type(bids, own_bids))
  column = np.maximum(ads, 0)[..., None]
  replaced = np.where(ads[..., None] >= 0, own_bids[..., None], np.take_along_axis(profiles, column, axis=-1))
  np.put_along_axis(profiles, column, replaced, axis=-1)
  return profiles


def _map(function, *trees):
  import jax

  return jax.tree.map(function, *trees)


def _own_result(result, ads):
  """Returns (x, price or None, payload) of the moved ads [B, P] from whatever `allocate` returned."""
  if isinstance(result, types.Slate):
    own = np.asarray(result.items) == ads[..., None]
    x = np.where(own & (ads[..., None] >= 0), np.asarray(result.click_probability), 0).sum(-1)
    return x, None, result
  if isinstance(result, types.Outcome):
    return _own_column(result.click_probability, ads), _own_column(result.price, ads), None
  x, payload = result if isinstance(result, tuple) else (result, None)
  return _own_column(x, ads), None, payload


def _own_column(values, ads):
  column = np.take_along_axis(np.asarray(values), np.maximum(ads, 0)[..., None], axis=-1)[..., 0]
  return np.where(ads >= 0, column, 0)


def own_slot(items, ads):
  """Returns i[B, A, G]: the slot of each ad in the lists items i[B, A, G, K] shown at its nodes, K where it is not
  shown."""
  own = (np.asarray(items) == np.asarray(ads)[..., None, None]) & (np.asarray(ads) >= 0)[..., None, None]
  return np.where(own.any(-1), own.argmax(-1), own.shape[-1])


def refine_table(allocate, bids, table, *, rounds=8, splits=1, chunk=None):
  """Returns the table with rounds * splits more nodes: midpoints of the intervals where the payment is least certain,
  |jump of x| * width.

  Where to split is read from the curve itself, which depends on the others' bids alone, so that the grid stays
  independent of the ad's report. Several splits per round bisect several jumps at once.
  """
  for _ in range(rounds):
    doubt = np.abs(np.diff(table.x, axis=-1)) * np.diff(table.nodes, axis=-1)
    interval = np.argsort(-doubt, axis=-1, kind="stable")[..., :splits]
    middle = (np.take_along_axis(table.nodes, interval, -1) + np.take_along_axis(table.nodes, interval + 1, -1)) / 2
    more = counterfactual_table(allocate, bids, table.ads, middle, chunk=chunk)
    nodes = np.concatenate([table.nodes, middle], axis=-1)
    order = np.argsort(nodes, axis=-1, kind="stable")
    merge = lambda old, new, order=order: _take_nodes(np.concatenate([old, new], axis=2), order)
    price, payload = _map(merge, (table.price, table.payload), (more.price, more.payload))
    table = CounterfactualTable(
      nodes=_take_nodes(nodes, order), x=merge(table.x, more.x), ads=table.ads, price=price, payload=payload
    )
  return table


def _take_nodes(leaf, order):
  return np.take_along_axis(leaf, order.reshape(order.shape + (1,) * (leaf.ndim - 3)), axis=2)


def myerson_integral(table):
  """Returns the Payments P(z_k) = sum_{m<=k} z_m (x_m - x_{m-1}), x_{-1} = 0, of the rule that rounds a bid down to a
  node (Myerson 1981).

  Exactly truthful where x is non-decreasing on the nodes. Above a fall of x no payment is truthful: the integral is
  clipped to [0, z_k x_k], and `clipped` says where.
  """
  x, nodes = np.asarray(table.x, np.float64), np.asarray(table.nodes, np.float64)
  integral = np.cumsum(nodes * np.diff(x, axis=-1, prepend=0.0), axis=-1)
  ceiling = nodes * x
  expected = np.clip(integral, 0.0, ceiling)
  rounding = 1e-9 * (1e-30 + np.abs(ceiling).max(-1, keepdims=True))
  price = np.divide(expected, x, out=np.zeros_like(x), where=x > 0)
  return Payments(expected=expected, price=np.minimum(price, nodes), clipped=np.abs(integral - expected) > rounding)


def regret_table(x, price, nodes, own, value=None):
  """Returns the Regret of reporting node `own`, over deviations to every other node (EGA Eq. 6).

  Args:
    x: f[B, A, G], click probability at each own bid.
    price: f[B, A, G], per-click price at each own bid.
    nodes: f[B, A, G], own bids.
    own: i[B, A], the node of the truthful report.
    value: f[B, A], value per click; None: the node itself.
  """
  x, price, nodes = (np.asarray(a, np.float64) for a in (x, price, nodes))
  value = take_node(nodes, own) if value is None else np.asarray(value, np.float64)
  utility = (value[..., None] - price) * x
  best = utility.argmax(-1)
  truthful = take_node(utility, own)
  gain = take_node(utility, best) - truthful
  return Regret(regret=gain, utility=truthful, payment=take_node(price * x, own), best=take_node(nodes, best))


def ex_post_regret(mechanism, values, grid, *, ads=None, bids=None, chunk=None):
  """Returns the Regret [B, A] of truthful bidding under a mechanism, over a grid of misreports and the truth itself.

  Args:
    mechanism: function of bids f[B, P, N] -> types.Outcome.
    values: f[B, N], per click; the truthful report of the audited ads.
    grid: f[..., G] misreports, broadcast to [B, A, G].
    ads: i[B, A], audited columns (-1 for none); None: all.
    bids: f[B, N], reports of the other ads; None: their values.
    chunk: profiles per call of the mechanism.
  """
  values = np.asarray(values, np.float64)
  ads = np.broadcast_to(np.arange(values.shape[1]), values.shape) if ads is None else np.asarray(ads)
  own_value = np.where(ads >= 0, np.take_along_axis(values, np.maximum(ads, 0), axis=1), 0.0)
  grid = np.broadcast_to(np.asarray(grid, np.float64), ads.shape + np.shape(grid)[-1:])
  nodes = np.concatenate([own_value[..., None], grid], axis=-1)
  table = counterfactual_table(mechanism, values if bids is None else bids, ads, nodes, chunk=chunk)
  return regret_table(table.x, table.price, table.nodes, np.zeros(ads.shape, int), own_value)


def summarise_regret(regret, where=None):
  """Returns a dict of floats: mean, 99th percentile and maximum of regret per ad, and regret over payment and over
  utility as ratios of sums (0 where nothing was lost).

  Args:
    regret: a Regret record of [B, A].
    where: bool[B, A], the ads that count; None: all.
  """
  where = np.ones(np.shape(regret.regret), bool) if where is None else np.asarray(where)
  lost, utility, payment = (np.asarray(a)[where] for a in (regret.regret, regret.utility, regret.payment))
  ratio = lambda base: float(lost.sum() / base) if base > 0 else (0.0 if lost.sum() <= 0 else float("inf"))
  return dict(
    mean_regret=float(lost.mean()) if lost.size else 0.0,
    p99_regret=float(np.percentile(lost, 99)) if lost.size else 0.0,
    max_regret=float(lost.max(initial=0.0)),
    regret_over_payment=ratio(payment.sum()),
    regret_over_utility=ratio(utility.sum()),
  )


def least_regret(table, weights=None):
  """Returns the `LeastRegret` that any payment 0 <= P <= z x could have on the table's curves (a linear program each).

  Args:
    table: a CounterfactualTable.
    weights: f broadcast to [B, A, G], probability of each node as a value; None: uniform.
  """
  return program.least_regret(table.x, table.nodes, weights)


def falls(x, tolerance=1e-9):
  """Returns (falling bool[B, A], depth f[B, A]): whether the curve x f[B, A, G] ever falls, and its deepest fall below
  an earlier height, as a share of its maximum."""
  x = np.asarray(x, np.float64)
  top = np.maximum(x.max(-1), 1e-30)
  depth = (np.maximum.accumulate(x, axis=-1) - x).max(-1) / top
  return depth > tolerance, depth
