"""Laws that every loss keeps, over one table: masked is dropped, a batch is the sum of its rows, nothing is ever NaN.

A row of the table: a function of (differentiable inputs, fixed inputs, where) -> (sum, weight, metrics), and how to
draw inputs for n examples, all arrays having the examples on axis 0. Inputs times `extreme` must give finite results.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.losses import generation, lagrangian, policy, quantization, reward

SIZE, LENGTH, LEVELS, VOCABULARY = 6, 4, 3, 5


@dataclasses.dataclass(frozen=True)
class Law:
  name: str
  loss: Callable  # (free: dict, fixed: dict, where) -> (sum, weight, metrics)
  draw: Callable  # rng -> (free, fixed)
  extreme: float = 1e4
  slope: bool = True  # False where a stopped gradient makes the gradient another function's


def _codes(rng):
  logits = rng.normal(size=(SIZE, LENGTH, LEVELS, VOCABULARY)).astype(np.float32)
  codes = rng.integers(-1, VOCABULARY, (SIZE, LENGTH, LEVELS))
  return dict(logits=logits), dict(codes=codes, legal=rng.random(logits.shape) < 0.6)


def _clicks(rng):
  names = ("poi", "creative", "conversion")
  logits = {name: rng.normal(size=(SIZE, LENGTH)).astype(np.float32) for name in names}
  return dict(logits=logits), dict(labels={name: rng.integers(0, 2, (SIZE, LENGTH)) for name in names})


def _policy(rng):
  log_z = -rng.exponential(size=(SIZE, LENGTH)).astype(np.float32)
  fixed = dict(reward=rng.normal(size=(SIZE, LENGTH)), share=rng.random(SIZE))
  return dict(log_z=log_z), {name: value.astype(np.float32) for name, value in fixed.items()}


def _payment(rng):
  shape = (SIZE, LENGTH)
  free = dict(prices=rng.random(shape).astype(np.float32), regret=rng.random(shape).astype(np.float32))
  fixed = {name: rng.random(shape).astype(np.float32) for name in ("x", "bids", "values")}
  return free, {**fixed, "multiplier": np.float32(0.7)}


def _vectors(rng):
  x = {name: rng.normal(size=(SIZE, LENGTH)).astype(np.float32) for name in ("embeddings", "reconstruction")}
  levels = {name: rng.normal(size=(SIZE, LEVELS, LENGTH)).astype(np.float32) for name in ("residuals", "codewords")}
  return {**x, **levels}, {"beta": np.float32(0.25)}


LAWS = (
  Law("next_token", lambda a, b, w: generation.next_token_loss(a["logits"], b["codes"], where=w), _codes),
  Law("multi_token", lambda a, b, w: generation.multi_token_loss(a["logits"], b["codes"], where=w), _codes),
  Law("legal_codes", lambda a, b, w: generation.next_token_loss(a["logits"], **b, where=w), _codes),
  Law("sequence", lambda a, b, w: generation.sequence_loss(a["log_z"], where=w), _policy),
  Law("shared_sequence", lambda a, b, w: generation.sequence_loss(a["log_z"], where=w, share=b["share"]), _policy),
  Law("list_click", lambda a, b, w: reward.list_click_loss(a["logits"], b["labels"], where=w), _clicks),
  Law("policy", lambda a, b, w: policy.policy_gradient_loss(a["log_z"], b["reward"], where=w), _policy),
  Law("payment", lambda a, b, w: lagrangian.payment_loss(**a, **b, rho=1.5, where=_each(w, LENGTH)), _payment),
  Law("quantization", lambda a, b, w: quantization.rq_vae_loss(**a, **b, where=w), _vectors, slope=False),
)


def _each(where, length):
  """Returns bool[n, length] of a mask over examples bool[n], for losses that want the full shape."""
  return None if where is None else jnp.broadcast_to(jnp.asarray(where)[:, None], (len(where), length))


def _rows(tree, index):
  return jax.tree.map(lambda x: x if np.ndim(x) == 0 else x[index], tree)


def _scaled(tree, factor):
  return jax.tree.map(lambda x: x * np.float32(factor), tree)


def _evaluate(law, free, fixed, where):
  """Returns ((sum, weight, metrics), gradient of the sum)."""

  def total(free):
    out = law.loss(free, fixed, where)
    return out[0], out

  (_, out), gradient = jax.value_and_grad(total, has_aux=True)(jax.tree.map(jnp.asarray, free))
  return out, gradient


def _assert_close(got, want, rtol=1e-5):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5), got, want)


@pytest.fixture(params=LAWS, ids=lambda law: law.name)
def law(request):
  return request.param


@pytest.fixture
def drawn(law):
  return law.draw(np.random.default_rng(0))


WHERE = np.array([True, False, True, True, False, True])


def test_masked_is_dropped_whatever_it_holds(law, drawn):
  free, fixed = drawn
  poisoned = jax.tree.map(lambda x: np.where(WHERE.reshape(-1, *[1] * (x.ndim - 1)), x, np.nan), free)
  got, gradient = _evaluate(law, poisoned, fixed, WHERE)
  want, small = _evaluate(law, _rows(free, WHERE), _rows(fixed, WHERE), None)
  _assert_close(got, want)
  _assert_close(_rows(gradient, WHERE), small)
  jax.tree.map(lambda g: np.testing.assert_array_equal(_rows(g, ~WHERE), 0), gradient)
  assert float(got[0]) != 0


def test_all_masked_is_zero_with_zero_gradient(law, drawn):
  (total, weight, metrics), gradient = _evaluate(law, *drawn, np.zeros(SIZE, bool))
  assert float(total) == 0 and float(weight) == 0
  jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), gradient)
  assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(metrics))


def test_batch_is_the_sum_of_its_rows(law, drawn):
  free, fixed = drawn
  whole, gradient = _evaluate(law, free, fixed, WHERE)
  parts = [_evaluate(law, *(_rows(t, slice(i, i + 1)) for t in drawn), WHERE[i : i + 1]) for i in range(SIZE)]
  _assert_close(whole, jax.tree.map(lambda *x: sum(x), *[p[0] for p in parts]))
  _assert_close(gradient, jax.tree.map(lambda *x: np.concatenate(x), *[p[1] for p in parts]))


def test_order_of_examples_does_not_matter(law, drawn):
  order = np.random.default_rng(1).permutation(SIZE)
  whole, gradient = _evaluate(law, *drawn, WHERE)
  shuffled, moved = _evaluate(law, *(_rows(t, order) for t in drawn), WHERE[order])
  _assert_close(shuffled, whole)
  _assert_close(moved, _rows(gradient, order))


def test_jit_changes_nothing(law, drawn):
  free, fixed = drawn
  jitted = jax.jit(lambda a, b, w: law.loss(a, b, w))(free, fixed, WHERE)
  _assert_close(jitted, law.loss(free, fixed, WHERE))


def test_extreme_inputs_stay_finite(law, drawn):
  for factor in (law.extreme, -law.extreme, 0.0):
    out, gradient = _evaluate(law, _scaled(drawn[0], factor), drawn[1], WHERE)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((out, gradient)))


def test_gradient_is_the_slope(law, drawn):
  if not law.slope:
    return
  free, fixed = drawn
  _, gradient = _evaluate(law, free, fixed, WHERE)
  direction = jax.tree.map(lambda x: np.random.default_rng(2).normal(size=x.shape).astype(np.float32), free)
  value = lambda t: float(law.loss(jax.tree.map(lambda x, d: x + np.float32(t) * d, free, direction), fixed, WHERE)[0])
  slope = (value(1e-2) - value(-1e-2)) / 2e-2
  inner = sum(float(np.vdot(g, d)) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
  np.testing.assert_allclose(slope, inner, rtol=2e-2, atol=2e-2)
