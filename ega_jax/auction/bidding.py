"""How a bid enters generation: token weights (EGA Eq. 21-22), virtual bids, shaded bids. Pure functions of arrays.

Works on jax and numpy arrays alike and is differentiable in logits and bids.
"""

import math

import jax
import jax.numpy as jnp

from ega_jax.auction import values


def token_weight(bid, *, alpha=1.2, beta=2.0, bid_scale=1.0):
  """Returns w = (max(b, 0) / bid_scale)^alpha + beta f[...] (EGA Eq. 21); beta where nothing is bid.

  Args:
    bid: f[...], token bid: the highest (or mean) bid of the items still legal under the token. A negative (virtual) bid
      weighs as 0: token weights only propose lists.
    alpha: exponent, > 0.
    beta: what a token without a bid weighs, > 0.
    bid_scale: money that counts as 1, fitted once on training logs (their median), never a statistic of the request.
  """
  base = jnp.maximum(bid, 0.0) / bid_scale
  # 0^alpha has an infinite slope for alpha < 1: the power is taken of a harmless 1 there.
  power = jnp.where(base > 0, jnp.where(base > 0, base, 1.0) ** alpha, 0.0)
  return power + beta


def log_token_weight(bid, *, alpha=1.2, beta=2.0, bid_scale=1.0):
  """Returns log w f[...], what is added to a token's logit (EGA Eq. 22). Arguments as in `token_weight`."""
  return jnp.log(token_weight(bid, alpha=alpha, beta=beta, bid_scale=bid_scale))


def log_allocation(logits, log_weight, legal, axis=-1):
  """Returns log z = log softmax(logit + log w) f[...] over the legal tokens (EGA Eq. 22), exactly -inf elsewhere.

  Args:
    logits: f[..., V].
    log_weight: f[..., V].
    legal: bool[..., V]. Where nothing is legal every log z is -inf.
  """
  total = jnp.where(legal, logits + log_weight, -jnp.inf)
  top = jax.lax.stop_gradient(jnp.max(total, axis=axis, keepdims=True))
  shifted = jnp.where(legal, total - jnp.where(jnp.isfinite(top), top, 0.0), 0.0)
  mass = jnp.sum(jnp.where(legal, jnp.exp(shifted), 0.0), axis=axis, keepdims=True)
  return jnp.where(legal, shifted - jnp.log(jnp.where(mass > 0, mass, 1.0)), -jnp.inf)


def lognormal_virtual_bid(bid, mu, sigma, *, ironed=True, floor=-1e3):
  """Returns phi(b) = b - (1 - F(b)) / f(b) f[...] for lognormal F: the virtual bid of Myerson (1981), ironed by
  default.

  phi = b (1 - sigma * Mills(t)), t = (log b - mu) / sigma, with the Mills ratio from log_ndtr: sound in float32 in both
  tails. Negative values are kept (they give the slot to an organic item).

  Args:
    bid: f[...], per click.
    mu: f[...], location of each ad's value given the request; money's unit is exp(mu).
    sigma: a Python float: the ironed interval is found on the host, once per sigma.
    ironed: flat on the ironed interval (sigma above about 1.5).
    floor: least phi in units of exp(mu); phi falls to -inf as the bid falls to 0.
  """
  bid = jnp.asarray(bid, jnp.result_type(bid, jnp.float32))
  positive = bid > 0
  t = jnp.clip((jnp.log(jnp.where(positive, bid, 1.0)) - mu) / sigma, -12.0, None)
  log_mills = jax.scipy.special.log_ndtr(-t) + 0.5 * t**2 + 0.5 * math.log(2 * math.pi)
  virtual = jnp.exp(sigma * t) - jnp.exp(jnp.minimum(sigma * t + log_mills, 80.0)) * sigma
  interval = values.ironed_interval(float(sigma)) if ironed else None
  if interval is not None:
    low, high, level = interval
    virtual = jnp.where((t > low) & (t < high), level, virtual)
  return jnp.where(positive, jnp.maximum(virtual, floor), floor) * jnp.exp(mu)


def shade(bids, multiplier, ads=None):
  """Returns multiplier * bids f[..., N]; with `ads` bool[..., N] only theirs (a deviation), the others kept."""
  return bids * multiplier if ads is None else jnp.where(ads, bids * multiplier, bids)
