"""Metrics of a mechanism (a function of bids f[B, G, N] -> types.Outcome): money, welfare, truthfulness, participation.

numpy, float64. Truthfulness is measured by re-running the mechanism under one ad's misreport, the others fixed.
"""

import numpy as np

from ega_jax.auction import regret as regret_lib
from ega_jax.auction import values as values_lib

GAMMAS = tuple(round(0.2 * k, 1) for k in range(1, 11))


def outcome_totals(outcome, values, distributions=None):
  """Returns a dict of per-profile sums over the ads: revenue, welfare, clicks, ads_shown, and virtual_surplus (raw
  phi).

  Args:
    outcome: types.Outcome of [..., N].
    values: f[..., N], per click.
    distributions: one value distribution per ad, for virtual_surplus = sum phi_i(v_i) x_i.
  """
  x, price = np.asarray(outcome.click_probability, np.float64), np.asarray(outcome.price, np.float64)
  values = np.asarray(values, np.float64)
  totals = dict(revenue=price * x, welfare=values * x, clicks=x, ads_shown=(x > 0).astype(np.float64))
  if distributions is not None:
    phi = values_lib.virtual_values(distributions, values, ironed=False)
    totals["virtual_surplus"] = np.where(x > 0, phi, 0.0) * x
  return {name: total.sum(-1) for name, total in totals.items()}


def participation(outcome, bids):
  """Returns ir_violations (shown ads with p > b), min_slack = min(b - p) and min_payment over shown ads (0 if none)."""
  x, price, bids = (np.asarray(a, np.float64) for a in (outcome.click_probability, outcome.price, bids))
  shown = x > 0
  slack = np.where(shown, bids - price, np.inf)
  rounding = 1e-9 * max(float(np.max(bids, initial=0.0)), 1e-30)
  smallest = lambda a: float(a.min()) if shown.any() else 0.0
  return dict(
    ir_violations=int((slack < -rounding).sum()),
    min_slack=smallest(slack),
    min_payment=smallest(np.where(shown, price, np.inf)),
  )


def psi(mechanism, values, *, gammas=GAMMAS, floor=None, chunk=None):
  """Returns (literal, ratio) of the paper's Psi: regret over utility when ads may scale their bid by gamma.

  literal = mean over requests of sum_i rgt_i / max(u_i, floor), over ads shown at truth; ratio = sum rgt / sum u.

  Args:
    mechanism: function of bids [B, G, N] -> types.Outcome.
    values: f[B, N]: truthful bids.
    gammas: multiples of the truthful bid; (1.0,) gives exactly 0.
    floor: least utility divided by; None: 1e-3 * median value (our decision: u_i may be 0).
    chunk: profiles per call of the mechanism.
  """
  values = np.asarray(values, np.float64)
  floor = 1e-3 * np.median(values) if floor is None else floor
  shown = np.asarray(mechanism(values[:, None]).click_probability)[:, 0] > 0
  deviations = values[..., None] * np.asarray(gammas)
  result = regret_lib.ex_post_regret(mechanism, values, deviations, chunk=chunk)
  lost, utility = np.where(shown, result.regret, 0.0), np.where(shown, result.utility, 0.0)
  literal = (lost / np.maximum(utility, floor)).sum(-1).mean()
  total = float(utility.sum())
  return float(literal), float(lost.sum() / total) if total > 0 else (float("inf") if lost.any() else 0.0)


def i_sic(mechanism, values, *, step=0.01, chunk=None):
  """Returns 1 + E[u((1+a)v) - u((1-a)v)] / (2a E[v x(v)]): 1 for a truthful mechanism, 0 for first price.

  Individual stepwise incentive compatibility (after Deng, Lahaie, Mirrokni and Zuo 2020), same draws for both sides.

  Args:
    mechanism: function of bids [B, G, N] -> types.Outcome.
    values: f[B, N].
    step: a.
    chunk: profiles per call of the mechanism.
  """
  values = np.asarray(values, np.float64)
  ads = np.broadcast_to(np.arange(values.shape[1]), values.shape)
  nodes = values[..., None] * np.array([1 - step, 1.0, 1 + step])
  table = regret_lib.counterfactual_table(mechanism, values, ads, nodes, chunk=chunk)
  utility = (values[..., None] - table.price) * table.x
  earned = (values * table.x[..., 1]).sum()
  return float(1 + (utility[..., 2] - utility[..., 0]).sum() / max(2 * step * earned, 1e-30))


def payment_identity_residual(mechanism, bids, *, num_nodes=201, rounds=12, splits=6, chunk=None):
  """Returns |p_i x_i - (b_i x_i - int_0^{b_i} x_i(z) dz)| f[B, N]: 0 if and only if the payment is Myerson's.

  The integral is a trapezoid sum on [0, b_i] with the largest jumps bisected, so that a step function's error is about
  its jump * b_i / (num_nodes * 2^(rounds + 1)).

  Args:
    mechanism: function of bids [B, G, N] -> types.Outcome.
    bids: f[B, N], per click.
    num_nodes: equally spaced own bids on [0, b_i], with both ends, before jumps are bisected.
    rounds, splits: of `refine_table`.
    chunk: profiles per call of the mechanism.
  """
  bids = np.asarray(bids, np.float64)
  ads = np.broadcast_to(np.arange(bids.shape[1]), bids.shape)
  nodes = bids[..., None] * np.linspace(0.0, 1.0, num_nodes)
  table = regret_lib.counterfactual_table(mechanism, bids, ads, nodes, chunk=chunk)
  table = regret_lib.refine_table(mechanism, bids, table, rounds=rounds, splits=splits, chunk=chunk)
  integral = np.trapezoid(table.x, table.nodes, axis=-1)
  x, price = table.x[..., -1], table.price[..., -1]
  return np.abs(price * x - (bids * x - integral))


def regret_and_curves(mechanism, values, grid, *, chunk=None):
  """Returns (Regret [B, N], falling bool[B, N]) of all ads on one grid of misreports, each ad's curve swept once.

  Args:
    mechanism: function of bids [B, G, N] -> types.Outcome.
    values: f[B, N]: truthful bids.
    grid: f[..., G], ascending misreports, broadcast to [B, N, G].
    chunk: profiles per call of the mechanism.
  """
  values = np.asarray(values, np.float64)
  ads = np.broadcast_to(np.arange(values.shape[1]), values.shape)
  grid = np.broadcast_to(grid, values.shape + np.shape(grid)[-1:])
  nodes = np.concatenate([grid, values[..., None]], axis=-1)
  order = np.argsort(nodes, axis=-1, kind="stable")
  table = regret_lib.counterfactual_table(mechanism, values, ads, np.take_along_axis(nodes, order, -1), chunk=chunk)
  own = (order == nodes.shape[-1] - 1).argmax(-1)
  return regret_lib.regret_table(table.x, table.price, table.nodes, own, values), regret_lib.falls(table.x)[0]


def standard_error(samples):
  """Returns the standard error of the mean of f[n] independent samples (0 for fewer than 2)."""
  samples = np.asarray(samples, np.float64)
  return float(samples.std(ddof=1) / np.sqrt(len(samples))) if len(samples) > 1 else 0.0
