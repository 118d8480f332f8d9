"""Calibration of click logits on validation data: one scale, and a bias per position for ads and for organic items."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ega_jax.nn.linear import partitioned


class Calibration(nn.Module):
  """Returns {"scale" f32[1], "bias" f32[2, K]}; held fixed in training by a stage's `trainable`."""

  positions: int

  @nn.compact
  def __call__(self):
    scale = self.param("scale", partitioned(nn.initializers.ones, (None,)), (1,))
    bias = self.param("bias", partitioned(nn.initializers.zeros, (None, None)), (2, self.positions))
    return {"scale": scale, "bias": bias}


def apply_calibration(calibration, logit, is_ad, present):
  """Returns calibrated logits [..., K]; 0 where not present."""
  kind = jnp.asarray(is_ad, jnp.int32)
  bias = calibration["bias"][kind, jnp.arange(logit.shape[-1])]
  return jnp.where(present, logit * calibration["scale"][0] + bias, 0.0)


def fit_calibration(logits, clicks, is_ad, where=None, *, ridge=1.0, steps=50):
  """Returns {"scale" f32[1], "bias" f32[2, K]}: logistic regression of clicks on logits, by Newton's method in float64.

  Args: logits (of a model whose calibration is the identity), clicks, is_ad, where: [n, K]. `ridge` pulls each bias
  to 0 by a normal prior of that precision, so that a slot and kind without clicks keeps the model's own level.
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
  x, y = logits[where], clicks[where]
  parameters = np.concatenate([[1.0], np.zeros(2 * length)])
  for _ in range(steps):
    step = _newton_step(parameters, x, y, cell, ridge)
    parameters = parameters + step
    if np.abs(step).max() < 1e-10:
      break
  scale, bias = parameters[:1], parameters[1:].reshape(2, length)
  return {"scale": scale.astype(np.float32), "bias": bias.astype(np.float32)}


def _newton_step(parameters, x, y, cell, ridge):
  """Returns the Newton step of the ridge-penalised log likelihood; the Hessian is an arrow (one scale, many biases)."""
  scale, bias = parameters[0], parameters[1:]
  p = 1 / (1 + np.exp(-np.clip(scale * x + bias[cell], -30, 30)))
  weight, count = p * (1 - p), len(bias)

  def per_cell(values):
    return np.bincount(cell, values, minlength=count)

  gradient = np.concatenate([[np.sum((y - p) * x) - ridge * (scale - 1)], per_cell(y - p) - ridge * bias])
  hessian = np.diag(np.concatenate([[np.sum(weight * x * x)], per_cell(weight)]) + ridge)
  hessian[0, 1:] = hessian[1:, 0] = per_cell(weight * x)
  return np.linalg.solve(hessian, gradient)
