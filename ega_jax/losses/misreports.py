"""Misreports found by gradient ascent on what they bring, for auctions that are differentiable in the bids (Duetting et
al., "Optimal Auctions through Deep Learning", section 4).

An `auction` is a function of bids f[..., n, m] of n bidders for m items -> (allocation f[..., n, m], the probability
that a bidder gets an item, payments f[..., n]). Bidders are additive: a bundle is worth the sum of its items.
"""

import jax
import jax.numpy as jnp
import optax


def additive_utility(auction, values, bids):
  """Returns u_i f[..., n] of bidders worth `values` f[..., n, m] under `bids` f[..., n, m]."""
  allocation, payments = auction(bids)
  return (allocation * values).sum(-1) - payments


def misreport_utility(auction, values, misreports):
  """Returns u_i f[..., n] of every bidder under its own misreport, the others truthful (values, misreports:
  f[..., n, m])."""
  own = jnp.eye(values.shape[-2], dtype=bool)
  # Profile i on axis -3: row i is bidder i's misreport.
  bids = jnp.where(own[..., None], misreports[..., None, :, :], values[..., None, :, :])
  allocation, payments = auction(bids)
  mine = jnp.einsum("...iim->...im", allocation)
  return (mine * values).sum(-1) - jnp.einsum("...ii->...i", payments)


def misreport_regret(auction, values, misreports, truthful=None):
  """Returns max(0, gain over the truth) f[..., n] of given misreports: ex-post regret where they are the best ones.

  truthful: f[..., n], utilities under the truth; None: found here.
  """
  if truthful is None:
    truthful = additive_utility(auction, values, values)
  return jnp.maximum(misreport_utility(auction, values, misreports) - truthful, 0.0)


def ascend_misreports(utility, starts, steps, step_size, low=0.0, high=1.0):
  """Returns (misreports f[..., m], utility f[...]): the best point that Adam visits, first and last included.

  The best and not the last: with a constant step Adam circles around a maximum, and next to a discontinuity it falls.

  Args:
    utility: function of misreports f[..., m] -> f[...], each entry of its own misreport alone.
    starts: f[..., m].
    steps: moves, each by one gradient; 0 looks at `starts` alone.
    step_size: of Adam, in money.
    low, high: the values' support; points are clipped to it.
  """
  optimizer = optax.adam(step_size)

  def better(best, highest, point, found):
    return jnp.where((found > highest)[..., None], point, best), jnp.maximum(highest, found)

  def one(carry, _):
    point, state, best, highest = carry
    (_, found), grad = jax.value_and_grad(lambda p: (lambda u: (u.sum(), u))(utility(p)), has_aux=True)(point)
    updates, state = optimizer.update(-grad, state)
    return (jnp.clip(point + updates, low, high), state, *better(best, highest, point, found)), None

  first = (starts, optimizer.init(starts), starts, jnp.full(starts.shape[:-1], -jnp.inf, starts.dtype))
  (last, _, best, highest), _ = jax.lax.scan(one, first, length=steps)
  return better(best, highest, last, utility(last))  # no gradient is needed where nothing follows


def written(leaf, value):
  """Returns a term of value 0 whose gradient in `leaf` is leaf - value: `optax.scale(-1.0)` on it writes `value`.

  A state that is computed beside a loss (cached misreports, a multiplier with a rule of its own) is then a parameter
  like the others: saved and resumed with them. The norms of gradient and update that a step reports hold it, too.
  """
  term = jnp.vdot(leaf, jax.lax.stop_gradient(leaf - value))
  return term - jax.lax.stop_gradient(term)
