"""The least ex-post regret that any payment could have over an allocation: a linear program per own-bid curve.

Where x_i falls in b_i no payment is incentive compatible (Myerson 1981). How much regret is then unavoidable is a fact
of the allocation, against which a payment rule can be judged.
"""

import numpy as np

from ega_jax import types


@types.record
class LeastRegret:
  """The optimum of the program, per (request, ad)."""

  regret: types.Array  # f[B, A]     weighted mean over the values of the least regret
  payment: types.Array  # f[B, A]    weighted mean payment of that solution (the largest among near-equal solutions)
  expected: types.Array  # f[B, A, G] its payments P(z_k)


def least_regret(x, nodes, weights=None, *, revenue_weight=1e-7):
  """Returns the LeastRegret of the curves over all payments 0 <= P_k <= z_k x_k.

  Minimises sum_k w_k r_k, r_k = max_k' (z_k x_k' - P_k') - (z_k x_k - P_k). Nodes with the same x share their P without
  loss: the lowest of theirs is feasible for all, changes no deviation, and lowers no utility. Curves that never fall
  have regret 0 and their Myerson payment, without a program.

  Args:
    x: f[B, A, G], click probability at each own bid.
    nodes: f[B, A, G], own bids, non-decreasing.
    weights: f broadcast to [B, A, G], probability of each node as a value; None: uniform.
    revenue_weight: what a unit of payment is worth against a unit of regret, to choose among optima; small.
  """
  x, nodes = np.asarray(x, np.float64), np.asarray(nodes, np.float64)
  weights = np.ones(x.shape) if weights is None else np.broadcast_to(np.asarray(weights, np.float64), x.shape)
  weights = weights / weights.sum(-1, keepdims=True)
  expected = np.cumsum(nodes * np.diff(x, axis=-1, prepend=0.0), axis=-1)
  regret = np.zeros(x.shape[:-1])
  for at in zip(*np.nonzero((np.diff(x, axis=-1) < 0).any(-1)), strict=True):
    regret[at], expected[at] = _solve(x[at], nodes[at], weights[at], revenue_weight)
  return LeastRegret(regret=regret, payment=(weights * expected).sum(-1), expected=expected)


def _solve(x, nodes, weights, revenue_weight):
  """Returns (regret, P f[G]) of one curve."""
  from scipy import optimize, sparse

  scale = max(float((nodes * x).max()), 1e-30)
  level, cell = np.unique(x, return_inverse=True)
  num_levels, num_nodes = len(level), len(x)
  ceiling = np.full(num_levels, np.inf)
  np.minimum.at(ceiling, cell, nodes * x)
  # Row (k, j): P_cell(k) - P_j - r_k <= z_k (x_k - level_j); money in units of `scale`, so that the solver's tolerances
  # mean something.
  node, other = np.divmod(np.arange(num_nodes * num_levels), num_levels)
  rows, ones = np.arange(len(node)), np.ones(len(node))
  entries = np.concatenate([ones, -ones, -ones])
  columns = np.concatenate([cell[node], other, num_levels + node])
  matrix = sparse.csr_array((entries, (np.tile(rows, 3), columns)), shape=(len(node), num_levels + num_nodes))
  slack = nodes[node] * (x[node] - level[other]) / scale
  cell_weight = np.bincount(cell, weights, num_levels)
  bounds = [(0.0, c / scale) for c in ceiling] + [(0.0, None)] * num_nodes
  cost = np.concatenate([-revenue_weight * cell_weight, weights])
  solution = optimize.linprog(cost, A_ub=matrix, b_ub=slack, bounds=bounds, method="highs")
  if solution.status != 0:
    raise ArithmeticError(f"the least-regret program did not solve: {solution.message}")
  paid, lost = solution.x[:num_levels], solution.x[num_levels:]
  return float(weights @ lost) * scale, paid[cell] * scale
