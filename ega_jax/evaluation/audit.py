"""Audit of a system with a payment rule: what each ad would get at every own bid, and what lying would earn it.

Per request the shown ads and a few random unshown ones are moved over absolute own bids, the others truthful, the
allocation re-run at every bid. Everything is reported under two click models: `model`, the one the payments were
computed with (the slate's belief), and `true`, the world's: miscalibration appears as regret there, for exact VCG too.
"""

import dataclasses

import numpy as np

from ega_jax.auction import least_regret, regret
from ega_jax.evaluation import payments
from ega_jax.evaluation.systems import chunks_by_ads, take, true_clicks, truthful
from ega_jax.systems.pricing import node_weights
from ega_jax.systems.rows import at_items, own_of

GAMMAS = np.round(np.arange(0.2, 2.01, 0.2), 1)  # the paper's misreports gamma * v, for Psi only
STEP = 0.01  # i-SIC's perturbation of the bid (Deng et al. 2020)


@dataclasses.dataclass(frozen=True)
class AuditOptions:
  """How much is audited; cost = requests * (list length + unshown) * (nodes + 12 + 2 * refinements) allocations."""

  num_requests: int = 200
  num_unshown: int = 4
  num_nodes: int = 41
  refinements: int = 6  # rounds of bisection at the two most doubtful jumps of each curve
  sigma: float = payments.SIGMA
  requests_per_call: int = 8
  profiles_per_call: int = 256
  least_regret: bool = True
  seed: int = 0


def audited_ads(slate_items, is_ad, valid, num_unshown, draws):
  """Returns (ads i[B, K + num_unshown], weight f[B, K + num_unshown]) to audit, -1 and 0 where there is none.

  First the shown ads (weight 1), then unshown ones drawn without replacement, each standing for its share of them.

  Args: slate_items i[B, K]; is_ad, valid bool[B, C]; draws f[B, C]: uniform in [0, 1), the smallest are drawn.
  """
  shown = np.where((slate_items >= 0) & at_items(is_ad, slate_items, False), slate_items, -1)
  in_list = (np.arange(is_ad.shape[1])[None, :, None] == shown[:, None, :]).any(-1)
  unshown = is_ad & valid & ~in_list
  order = np.argsort(np.where(unshown, draws, 2.0), axis=1)[:, :num_unshown]
  drawn = np.where(np.take_along_axis(unshown, order, 1), order, -1)
  weight = unshown.sum(1, keepdims=True) / np.maximum((drawn >= 0).sum(1, keepdims=True), 1)
  ads = np.concatenate([shown, drawn], 1)
  return ads, np.where(ads >= 0, np.concatenate([np.ones(shown.shape), np.broadcast_to(weight, drawn.shape)], 1), 0.0)


def audit_system(system, rule, columns, world=None, options=None, *, shading=1.0):
  """Returns the audit as a dict of arrays [n, A] and curves [n, A, G] over a seeded sample of the requests.

  Keys: row, user, slots (K) [n]; ads, weight, shown, value, mu (location of the value's lognormal), own (node of the
  truthful bid) [n, A]; nodes, price, myerson [n, A, G] (per click); slot (`regret.own_slot`) and x/model, x/true
  [n, A, G] click probabilities.

  Args: system, rule: as in evaluation.systems; columns: request columns, "row" and "user" among them; world: None
    leaves x/true out; options: AuditOptions; shading: scales the others' bids.
  """
  options = options or AuditOptions()
  rng = np.random.default_rng(options.seed)
  count = len(columns["row"])
  sample = np.sort(rng.choice(count, size=min(options.num_requests, count), replace=False))
  draws, blocks = rng.random((len(sample), columns["is_ad"].shape[1])), []
  for fresh, rows, batch, items in chunks_by_ads(system, take(columns, sample), options.requests_per_call, shading):
    block = _audit_batch(system, rule, batch, items, world, options, shading, draws[rows]) | {"place": rows}
    blocks.append({name: column[:fresh] for name, column in block.items()})
  joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
  order = np.argsort(joined.pop("place"))
  return {name: column[order] for name, column in joined.items()}


def _audit_batch(system, rule, batch, items, world, options, shading, draws):
  bids = truthful(batch, shading)
  valid = np.asarray(batch["candidates"]) >= 0
  ads, weight = audited_ads(items, np.asarray(batch["is_ad"], bool), valid, options.num_unshown, draws)
  value = at_items(np.asarray(batch["bid"], np.float64), ads)
  table = _table(system, batch, bids[:, 0], ads, value, options)
  x = {"model": np.asarray(table.x, np.float64)}
  if world is not None:
    poi = true_clicks(world, batch, table.payload)[0]
    x["true"] = own_of(poi, table.payload.items, ads)
  price = payments.table_prices(rule, batch, bids[:, 0], table, options.profiles_per_call)
  return {
    "row": np.asarray(batch["row"]),
    "user": np.asarray(batch["user"]),
    "slots": np.full(len(ads), items.shape[1]),
    "ads": ads,
    "weight": weight,
    "shown": (ads >= 0) & (np.arange(ads.shape[1]) < items.shape[1]),
    "value": value,
    "own": payments.node_of(table.nodes, value),
    "nodes": table.nodes,
    "price": price,
    "myerson": regret.myerson_integral(table).price,
    "mu": at_items(np.asarray(batch["value_mu"], np.float64), ads),
    "slot": regret.own_slot(table.payload.items, ads),
  } | {f"x/{name}": clicks for name, clicks in x.items()}


def _table(system, batch, bids, ads, value, options):
  """Returns the table over absolute nodes, refined at jumps, with each ad's value, its gammas and i-SIC's two steps."""
  absolute = payments.absolute_nodes(batch, ads, options.num_nodes, options.sigma)
  reports = np.concatenate([[1.0, 1 - STEP, 1 + STEP], GAMMAS[GAMMAS != 1.0]])
  nodes = np.sort(np.concatenate([absolute, value[..., None] * reports], -1), -1)
  return payments.Sweeper(system, batch, options.profiles_per_call).table(bids, ads, nodes, options.refinements)


def audit_figures(audit, options=None):
  """Returns {figure: float}: regret, Psi, i-SIC, IR and the shape of the curves, per click model where it matters.

  Regret is in money per ad and request; `regret_per_payment` and `regret_per_utility` are ratios of totals over all ads
  (unshown ones by their weight). rpm_own is over the audited requests; revenue (b), that of the integral,
  is `audit_views.myerson_totals`.
  Standard errors (over requests) end in "/standard_error".
  """
  options = options or AuditOptions()
  figures = _curve_figures(audit, options)
  shown = audit["shown"]
  own_price = regret.take_node(audit["price"], audit["own"])
  margin = (audit["value"] - own_price)[shown]
  figures["ir_violations"] = _mean(margin < -1e-6 * np.maximum(audit["value"][shown], 1))
  figures["least_margin"] = float(margin.min(initial=np.inf))
  figures["least_price"] = float(own_price[shown].min(initial=np.inf))
  for evaluator in ("model", "true"):
    if f"x/{evaluator}" in audit:
      found = _incentives(audit, audit[f"x/{evaluator}"])
      figures.update({f"{evaluator}/{name}": number for name, number in found.items()})
  return figures


def _curve_figures(audit, options):
  """Returns the share and depth of falling curves, and the least regret any payment could have."""
  curves, depth = regret.falls(audit["x/model"])
  audited = audit["ads"] >= 0
  shown = audit["shown"]
  moved = audited & (audit["x/model"].max(-1) > 0)
  figures = {
    "curves": float(moved.sum()),
    "falling_share": _mean(curves[moved]),
    "falling_share_shown": _mean(curves[shown]),
    "fall_depth": _mean(depth[moved & curves]),
  }
  if options.least_regret:
    weights = node_weights(audit["nodes"], audit["mu"], options.sigma)
    least = least_regret.least_regret(audit["x/model"], audit["nodes"], weights)
    figures["least_regret"] = _mean(least.regret[shown])
    figures["least_regret_per_payment"] = _ratio(least.regret, least.payment, audit["weight"])
  return figures


def _mean(values):
  return float(np.mean(values)) if np.size(values) else 0.0


def _ratio(numerator, denominator, weight):
  total = (weight * denominator).sum()
  return float((weight * numerator).sum() / total) if total > 0 else 0.0


def _incentives(audit, x):
  """Returns the figures of one click model x f[n, A, G]."""
  nodes, price, own, value, shown = (audit[name] for name in ("nodes", "price", "own", "value", "shown"))
  lost = regret.regret_table(x, price, nodes, own, value)
  per_shown = lost.regret[shown]
  myerson = regret.take_node(audit["myerson"] * x, own)
  figures = {
    "regret": _mean(per_shown),
    "regret/standard_error": _standard_error(lost.regret, shown),
    "regret_unshown": _mean(lost.regret[(audit["ads"] >= 0) & ~shown]),
    "regret_p99": float(np.percentile(per_shown, 99)) if per_shown.size else 0.0,
    "regret_max": float(per_shown.max(initial=0.0)),
    "regret_per_payment": _ratio(lost.regret, lost.payment, audit["weight"]),
    "regret_per_utility": _ratio(lost.regret, np.maximum(lost.utility, 0), audit["weight"]),
    "rpm_own": 1000 * float((lost.payment * shown).sum() / audit["slots"].sum()),
    "payment_identity_residual": _mean(np.abs(lost.payment - myerson)[shown]),
    "i_sic": _i_sic(audit, x),
  }
  figures["psi"], figures["psi_ratio"] = _psi(audit, x)
  return figures


def _standard_error(values, where):
  """Returns the standard error of the mean of values[where] f[n, A], requests being the independent units."""
  count = where.sum()
  if count == 0 or len(values) < 2:
    return 0.0
  mean = values[where].mean()
  residual = np.where(where, values - mean, 0.0).sum(-1)
  return float(np.sqrt((residual**2).sum()) / count)


def _utility_at(audit, x, factors):
  """Returns u f[n, A, F] of reporting factor * value, read at the nodes that hold exactly these reports."""
  index = payments.node_of(audit["nodes"][..., None, :], audit["value"][..., None] * factors)
  take_at = lambda curve: np.take_along_axis(curve, index, -1)
  return (audit["value"][..., None] - take_at(audit["price"])) * take_at(x)


def _i_sic(audit, x):
  """Returns 1 + E[u((1 + a) v) - u((1 - a) v)] / (2 a E[v x(v)]): 1 when truthful, 0 for first price."""
  below, above = np.moveaxis(_utility_at(audit, x, np.array([1 - STEP, 1 + STEP])), -1, 0)
  welfare = audit["value"] * regret.take_node(x, audit["own"])
  return 1 + _ratio(above - below, 2 * STEP * welfare, audit["weight"])


def _psi(audit, x):
  """Returns (EGA's Psi = mean over requests of sum_i rgt_i / u_i, sum rgt / sum u), ads shown at truth, bids gamma * v.

  Utilities are at least 1e-3 of the median value in the first, or one ad at the margin would be the whole figure.
  """
  utility = _utility_at(audit, x, GAMMAS)
  truth = regret.take_node((audit["value"][..., None] - audit["price"]) * x, audit["own"])
  lost = np.where(audit["shown"], np.maximum(utility.max(-1) - truth, 0.0), 0.0)
  floor = 1e-3 * np.median(audit["value"][audit["ads"] >= 0])
  total = np.where(audit["shown"], truth, 0.0).sum()
  return float((lost / np.maximum(truth, floor)).sum(-1).mean()), float(lost.sum() / total) if total > 0 else 0.0
