"""Payments as a menu: click probabilities to choose from, each at its price, for an allocation that is not monotone.

A rising curve y(z) stands for the menu P(x) = integral of max(x - y(z), 0) dz: a convex price of click probability,
from which a value z would choose y(z) (Rochet 1987). An allocation x(z) that equals y pays Myerson's payment. Where x
falls it cannot follow any y, and its regret is at most what z would gain by choosing for itself from the menu. The
price of what is shown depends on the own bid through nothing but x, so that no report is charged for itself.

Pure functions of arrays, jitted or not, batched over leading axes.
"""

import jax
import jax.numpy as jnp


def isotonic_regression(x, weight):
  """Returns the non-decreasing y f[..., M] nearest x f[..., M] in squares weighted by weight f[..., M] > 0.

  By the max-min formula (Barlow et al. 1972): y_k = max over i <= k of min over j >= k of the mean of x_i .. x_j.
  """
  total = lambda a: jnp.concatenate([jnp.zeros_like(a[..., :1]), jnp.cumsum(a, axis=-1)], axis=-1)
  mass, sums = total(weight), total(weight * x)
  between = lambda a: a[..., None, 1:] - a[..., :-1, None]  # [..., i, j]: of i..j
  ordered = jnp.arange(x.shape[-1])[:, None] <= jnp.arange(x.shape[-1])
  mean = between(sums) / jnp.where(ordered, jnp.maximum(between(mass), 1e-30), 1.0)
  least = jax.lax.cummin(jnp.where(ordered, mean, jnp.inf), axis=mean.ndim - 1, reverse=True)
  return jnp.where(ordered, least, -jnp.inf).max(-2)


def menu_payment(level, bid, x):
  """Returns the expected payment P(x) f[..., G] = integral of max(x - y(z), 0) dz of click probabilities x f[..., G].

  For a rising y it is the integral from 0 to x of y^-1. It is convex in x whatever y is, so that any y is a menu.

  Args: bid f[..., M] >= 0, non-decreasing; level f[..., M]: y(z) from bid_k up to the next bid; 0 below the first. The
    integral ends with the last bid: what lies above all levels costs so much a click.
  """
  width = jnp.diff(bid, axis=-1)[..., None, :]
  above = jnp.maximum(x[..., None] - level[..., None, :-1], 0.0)
  return jnp.sum(width * above, axis=-1) + bid[..., :1] * x
