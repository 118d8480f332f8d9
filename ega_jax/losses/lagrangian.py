"""Augmented-Lagrangian payment learning (EGA Eq. 33-35; Duetting et al., "Optimal Auctions through Deep Learning"), as
pure functions.

The allocation is frozen: click probabilities at every own bid come from a counterfactual table and carry no gradient,
so that a payment cannot move the allocation. Regret is over the table's absolute own bids, the allocation re-run at
each: with the list and the rate held fixed under a misreport the only zero-regret rate is 0.

**The multiplier is a parameter.** d(loss / weight)/d(multiplier) = +mean regret, so gradient *ascent* with step rho on
it, `optax.scale(+rho)` in place of the optimizer's negative learning rate, is exactly Eq. 35: lambda <- lambda + rho *
rgt. Give the leaf its own label in `optax.multi_transform`; if it is to move every T steps only, wrap it in
`optax.MultiSteps`.
"""

import jax
import jax.numpy as jnp


def cap_price(price, bid, *, straight_through=True):
  """Returns min(price, bid) [...] per click (ours: BUILD_NOTES.md, "Payments"); no gradient reaches `bid`.

  At the truthful report the gradient passes straight through the cap to `price`: a price that overshot the bid would
  otherwise never come back. At a misreport (`straight_through=False`) it must not: raising the price does not raise
  what a capped misreport pays, and pretending so cancels the very term that makes overcharging cost regret.
  """
  bid = jax.lax.stop_gradient(bid)
  capped = jnp.minimum(price, bid)
  return price + jax.lax.stop_gradient(capped - price) if straight_through else capped


def rate_price(logit, bid):
  """Returns sigmoid(logit) * bid [...] per click, the paper's rate form (EGA Eq. 25-26)."""
  return jax.nn.sigmoid(logit) * jax.lax.stop_gradient(bid)


def table_regret(
  prices, x, nodes, own, values=None, *, own_prices=None, stop_allocation=True, stop_truthful=False, where=None
):
  """Returns ex-post regret f[...] over the nodes of a counterfactual table (EGA Eq. 6), >= 0, differentiable in
  `prices`.

  Args:
    prices: f[..., G], per click, at every own bid.
    x: f[..., G], click probability at every own bid, the allocation re-run.
    nodes: f[..., G], own bids.
    own: i[...], the node of the truthful report.
    values: f[...], value per click; None: the own node.
    own_prices: f[...], price at the truthful report, where its gradient is another one: `cap_price` there straight
      through, at the misreports not. None: taken from `prices`.
    stop_allocation: no gradient flows into x (a frozen allocation).
    stop_truthful: no gradient through the truthful utility: deviations are made worse, the truth is not made better.
    where: bool[..., G], nodes that exist; the own node always does.
  """
  if stop_allocation:
    x = jax.lax.stop_gradient(x)
  take = lambda a: jnp.take_along_axis(a, own[..., None], axis=-1)[..., 0]
  values = take(nodes) if values is None else values
  utility = (values[..., None] - prices) * x
  truthful = take(utility) if own_prices is None else (values - own_prices) * take(x)
  if where is not None:
    utility = jnp.where(where, utility, truthful[..., None])
  return jnp.maximum(utility.max(-1) - (jax.lax.stop_gradient(truthful) if stop_truthful else truthful), 0.0)


def payment_loss(
  prices, x, bids, values, regret, multiplier, rho, *, where=None, square="each", stop_allocation=True, price_weight=1.0
):
  """Returns (sum, weight, metrics) of L_Pay = -(sum p_i r_i - sum lambda_i rgt_i - rho/2 sum rgt_i^2) (EGA Eq. 33),
  where r_i = x_i.

  Args:
    prices: f[B, A], per click, at the truthful report.
    x: f[B, A], click probability at the truthful report.
    bids: f[B, A], truthful reports, for the metrics.
    values: f[B, A], values per click, for the metrics.
    regret: f[B, A], ex-post regret, for example `table_regret`.
    multiplier: f broadcast to [B, A]: lambda, a parameter; the loss is linear in it.
    rho: weight of the quadratic term.
    where: bool[B, A], the ads that count; None: all.
    square: "each" squares every auction's regret, so that a batch equals its loop; "mean" squares the batch's mean per
      ad column, as RegretNet does.
    stop_allocation: no gradient flows into x.
    price_weight: weight of the revenue term; 1 as in the paper.

  Returns:
    sum over ads that count, their number, and metrics name -> (sum, weight): revenue, regret, multiplier,
    regret_over_payment, ir_violation, utility.

  Raises:
    ValueError: an unknown `square`.
  """
  if square not in ("each", "mean"):
    raise ValueError(f'square must be "each" or "mean", got {square!r}')
  where = jnp.ones(prices.shape, bool) if where is None else where
  if stop_allocation:
    x = jax.lax.stop_gradient(x)
  keep = lambda a: jnp.where(where, a, 0.0)
  revenue, regret = keep(prices * x), keep(regret)
  weight = where.sum().astype(prices.dtype)
  linear = keep(multiplier * regret)
  if square == "each":
    quadratic = jnp.square(regret).sum()
  else:
    count = where.sum(0)
    quadratic = (count * jnp.square(regret.sum(0) / jnp.maximum(count, 1))).sum()
  total = -price_weight * revenue.sum() + linear.sum() + 0.5 * rho * quadratic
  metrics = dict(
    revenue=(revenue.sum(), weight),
    regret=(regret.sum(), weight),
    multiplier=(keep(jnp.broadcast_to(multiplier, prices.shape)).sum(), weight),
    regret_over_payment=(regret.sum(), revenue.sum()),
    ir_violation=(keep(prices > bids).sum().astype(prices.dtype), weight),
    utility=(keep((values - prices) * x).sum(), weight),
  )
  return total, weight, metrics


def ascend(multiplier, regret, rho):
  """Returns lambda + rho * rgt (EGA Eq. 35), for loops that keep the multiplier outside the parameters."""
  return multiplier + rho * regret


def budgeted_multiplier(multiplier, regret, revenue, budget, *, step=0.5):
  """Returns RegretFormer's multiplier max(0, w + step * (log(rgt / rev) - log R)) (Ivanov et al. 2022), which holds
  regret at a share R of revenue.

  Args:
    multiplier: f[], w.
    regret: f[], mean regret; 0 counts as 1e-12.
    revenue: f[], mean revenue; 0 counts as 1e-12.
    budget: R, the allowed regret per unit of revenue.
    step: size of a step.
  """
  log_ratio = jnp.log(jnp.maximum(regret, 1e-12)) - jnp.log(jnp.maximum(revenue, 1e-12))
  return jnp.maximum(0.0, multiplier + step * (log_ratio - jnp.log(budget)))


def budgeted_loss(prices, x, regret, multiplier, *, where=None, stop_allocation=True):
  """Returns (sum, weight, metrics) of -revenue + w * regret with w held fixed: the loss that goes with
  `budgeted_multiplier`.

  Arguments as in `payment_loss`, prices, x and regret f[B, A]; multiplier: w. Neither bids nor values are known here:
  the metrics ir_violation and utility are 0.
  """
  fixed = jax.lax.stop_gradient(multiplier)
  no_cap = jnp.full_like(prices, jnp.inf)
  return payment_loss(prices, x, no_cap, prices, regret, fixed, 0.0, where=where, stop_allocation=stop_allocation)
