"""Calibration of click logits on logs unseen in training: one scale, and a bias per position and kind of item."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ega_jax.nn.linear import partitioned

LEVEL = 1.0  # variance of a kind's level: next to no prior
LEAST = 1e-8  # least variance of an effect


class Calibration(nn.Module):
  """Returns {"scale" f32[1], "bias" f32[2, K]}; held fixed in training by a stage's `trainable`."""

  positions: int

  @nn.compact
  def __call__(self):
    """Returns {"scale" f32[1], "bias" f32[2, K]}; logits stay as they are until they are set."""
    scale = self.param("scale", partitioned(nn.initializers.ones, (None,)), (1,))
    bias = self.param("bias", partitioned(nn.initializers.zeros, (None, None)), (2, self.positions))
    return {"scale": scale, "bias": bias}


def apply_calibration(calibration, logit, is_ad, present):
  """Returns calibrated logits [..., K]; 0 where not present.

  Args: calibration: of `Calibration`; logit f[..., K], the last axis being the position; is_ad, present bool[..., K].
  """
  kind = jnp.asarray(is_ad, jnp.int32)
  bias = calibration["bias"][kind, jnp.arange(logit.shape[-1])]
  return jnp.where(present, logit * calibration["scale"][0] + bias, 0.0)


def fit_calibration(logits, clicks, is_ad, where=None, *, steps=100):
  """Returns {"scale" f32[1], "bias" f32[2, K]}: logistic regression of clicks on logits, by Newton's method in float64.

  A bias is a level of its kind, plus an effect of the position, plus one of both. The effects are normal around 0 with
  variances found by empirical Bayes (MacKay 1992): what the clicks do not support is not there. Lists are chosen by
  these logits, and twenty free biases would each be a preference for a slot that is mostly noise of the clicks.

  Args: logits (of a model whose calibration is the identity), clicks, is_ad, where: [n, K].
  Raises: ValueError for logits that are not finite or shapes that differ.
  """
  logits, clicks, is_ad = np.asarray(logits, np.float64), np.asarray(clicks, np.float64), np.asarray(is_ad, bool)
  if not (logits.shape == clicks.shape == is_ad.shape and logits.ndim == 2):
    shapes = f"{logits.shape}, {clicks.shape}, {is_ad.shape}"
    raise ValueError(f"shapes of logits, clicks, is_ad are {shapes}; allowed: one shape [n, K]")
  where = np.ones(logits.shape, bool) if where is None else np.asarray(where, bool)
  if not np.isfinite(logits[where]).all():
    raise ValueError("logits to calibrate hold a value that is not finite")
  length = logits.shape[1]
  cell = (is_ad * length + np.arange(length))[where]
  effects, groups = _effects(length)
  parameters = np.concatenate([[1.0], np.zeros(effects.shape[1])])
  variance = np.array([LEVEL, 0.1, 0.1])
  for _ in range(steps):
    precision = np.concatenate([[1.0], 1 / variance[groups]])
    gradient, hessian = _likelihood(parameters, logits[where], clicks[where], cell, effects)
    covariance = np.linalg.inv(hessian + np.diag(precision))
    step = covariance @ (gradient - precision * (parameters - np.eye(len(parameters))[0]))
    parameters = parameters + step
    spread = _variances(parameters[1:], np.diag(covariance)[1:], groups, variance)
    done = np.abs(step).max() < 1e-10 and np.allclose(spread, variance, rtol=1e-4)
    variance = spread
    if done:
      break
  bias = (effects @ parameters[1:]).reshape(2, length)
  return {"scale": parameters[:1].astype(np.float32), "bias": bias.astype(np.float32)}


def _effects(length):
  """Returns (f[2K, E] what of each effect is in the bias of a cell, i[E] the group of an effect): 0 levels of kinds,
  1 positions, 2 cells, which are ordered (kind, position).
  """
  kind, position = np.divmod(np.arange(2 * length), length)
  parts = [np.eye(2)[kind], np.eye(length)[position], np.eye(2 * length)]
  return np.concatenate(parts, axis=1), np.repeat(np.arange(3), [part.shape[1] for part in parts])


def _likelihood(parameters, x, y, cell, effects):
  """Returns (gradient, -Hessian) of the log likelihood at parameters [scale, effects]."""
  logit = parameters[0] * x + (effects @ parameters[1:])[cell]
  p = 1 / (1 + np.exp(-np.clip(logit, -30, 30)))
  weight, count = p * (1 - p), len(effects)
  per_cell = lambda values: np.bincount(cell, values, minlength=count)
  gradient = np.concatenate([[np.sum((y - p) * x)], per_cell(y - p) @ effects])
  hessian = np.zeros((len(gradient),) * 2)
  hessian[0, 0] = np.sum(weight * x * x)
  hessian[0, 1:] = hessian[1:, 0] = per_cell(weight * x) @ effects
  hessian[1:, 1:] = effects.T @ (per_cell(weight)[:, None] * effects)
  return gradient, hessian


def _variances(effects, posterior, groups, variance):
  """Returns f[3]: the variance of each group's effects, that of the levels being fixed: MacKay's update."""
  found = [LEVEL]
  for group in (1, 2):
    of = groups == group
    determined = np.sum(1 - posterior[of] / variance[group])
    found.append(max(np.sum(effects[of] ** 2) / max(determined, 1e-6), LEAST))
  return np.array(found)
