"""Masked sums: every loss returns (sum, weight, metrics) and is divided once, after all devices have been added up."""

import jax.numpy as jnp


def broadcast_mask(where, shape):
  """Returns bool of `shape`: `where` (None for all) with trailing axes added; leading axes must match.

  Raises: ValueError if `where` has more axes than `shape`, or others.
  """
  if where is None:
    return jnp.ones(shape, bool)
  where = jnp.asarray(where)
  if where.ndim > len(shape) or any(m not in (1, n) for m, n in zip(where.shape, shape, strict=False)):
    raise ValueError(f"where has shape {where.shape}; allowed: a prefix of {tuple(shape)}")
  where = where.reshape(where.shape + (1,) * (len(shape) - where.ndim))
  return jnp.broadcast_to(where.astype(bool), shape)


def masked_sum(values, where=None):
  """Returns (sum, weight): the sum of values [...] where the mask holds, and the count.

  A masked value may be anything, NaN included: it is replaced before the sum, in value and in gradient.
  """
  mask = broadcast_mask(where, values.shape)
  return jnp.sum(jnp.where(mask, values, 0.0)), jnp.sum(mask).astype(jnp.float32)


def safe(values, where, fill=0.0):
  """Returns values with `fill` wherever the mask does not hold: call it before any function that is infinite there."""
  return jnp.where(broadcast_mask(where, values.shape), values, fill)


def average(pair):
  """Returns sum / weight of a (sum, weight) pair; 0 for weight 0."""
  total, weight = pair[:2]
  return total / jnp.maximum(weight, 1e-9) * (weight > 0)
