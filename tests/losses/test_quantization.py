"""The RQ-VAE loss: its formula, what each term moves, and masking."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.losses.quantization import rq_vae_loss


def _inputs(batch=5, levels=3, seed=0):
  draw = np.random.default_rng(seed).normal
  shapes = [(batch, 7), (batch, 7), (batch, levels, 4), (batch, levels, 4)]
  return tuple(draw(size=shape).astype(np.float32) for shape in shapes)


def _loss(*inputs, **options):
  total, weight, _ = rq_vae_loss(*inputs, **options)
  return total / jnp.maximum(weight, 1)


def test_value_is_the_formula_and_metrics_are_its_parts():
  x, rebuilt, r, c = _inputs()
  total, weight, parts = rq_vae_loss(x, rebuilt, r, c, beta=0.25)
  np.testing.assert_allclose(total, ((x - rebuilt) ** 2).sum() + 1.25 * ((r - c) ** 2).sum(), rtol=1e-5)
  assert weight == 5
  assert {name: float(w) for name, (_, w) in parts.items()} == dict.fromkeys(
    ["reconstruction", "codebook", "commitment"], 5.0
  )
  np.testing.assert_allclose(parts["codebook"][0], ((r - c) ** 2).sum(), rtol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.25, 2.0])
def test_codewords_move_by_the_codebook_term_and_residuals_by_commitment(beta):
  x, rebuilt, r, c = _inputs()
  grads = jax.grad(lambda *a: rq_vae_loss(*a, beta=beta)[0], argnums=(1, 2, 3))(x, rebuilt, r, c)
  np.testing.assert_allclose(grads[0], 2 * (rebuilt - x), rtol=1e-5)
  np.testing.assert_allclose(grads[1], 2 * beta * (r - c), rtol=1e-5)
  np.testing.assert_allclose(grads[2], 2 * (c - r), rtol=1e-5)


def test_masked_is_dropped_even_when_it_is_nan():
  inputs, keep = _inputs(), np.array([True, False, True, True, False])
  poisoned = tuple(np.where(keep.reshape(-1, *[1] * (a.ndim - 1)), a, np.nan) for a in inputs)
  masked, grads = jax.value_and_grad(_loss, argnums=(0, 1, 2, 3))(*poisoned, where=keep)
  dropped, expected = jax.value_and_grad(_loss, argnums=(0, 1, 2, 3))(*(a[keep] for a in inputs))
  np.testing.assert_allclose(masked, dropped, rtol=1e-6)
  for grad, reference in zip(grads, expected, strict=True):
    np.testing.assert_allclose(grad[keep], reference, rtol=1e-5)
    np.testing.assert_array_equal(grad[~keep], 0)


def test_all_masked_is_zero_in_value_and_gradient():
  nothing = np.zeros(5, bool)
  total, weight, parts = rq_vae_loss(*_inputs(), where=nothing)
  assert total == 0 and weight == 0 and all(value == (0, 0) for value in parts.values())
  for grad in jax.grad(_loss, argnums=(0, 1, 2, 3))(*_inputs(), where=nothing):
    np.testing.assert_array_equal(grad, 0)


def test_batch_is_the_sum_of_its_examples_and_jit_changes_nothing():
  inputs = _inputs()
  total = rq_vae_loss(*inputs)[0]
  np.testing.assert_allclose(total, sum(rq_vae_loss(*(a[i : i + 1] for a in inputs))[0] for i in range(5)), rtol=1e-5)
  np.testing.assert_allclose(total, jax.jit(rq_vae_loss)(*inputs)[0], rtol=1e-6)
