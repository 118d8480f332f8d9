"""Token weights, z, virtual bids: formulas, limits, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.auction import bidding, values


def test_token_weight_formula_and_gradient():
  bid = jnp.array([0.0, 0.5, 2.0, -3.0])
  got = bidding.token_weight(bid, alpha=1.2, beta=2.0, bid_scale=0.5)
  np.testing.assert_allclose(got, [2.0, 3.0, 4.0**1.2 + 2.0, 2.0], rtol=1e-6)
  slope = jax.vmap(jax.grad(lambda b: bidding.token_weight(b, alpha=0.5, beta=1.0)))(bid)
  np.testing.assert_allclose(slope, [0.0, 0.5 * 0.5**-0.5, 0.5 * 2.0**-0.5, 0.0], rtol=1e-5)


def test_log_allocation_is_a_weighted_softmax_over_legal_tokens():
  logits = np.array([[1.0, -2.0, 0.5, 30.0], [1e4, 0.0, -1e4, 5.0]])
  weight = np.array([[2.0, 3.0, 5.0, 1e9], [2.0, 2.0, 2.0, 2.0]])
  legal = np.array([[True, True, True, False], [True, True, True, False]])
  z = np.exp(np.asarray(bidding.log_allocation(logits, np.log(weight), legal)))
  want = np.where(legal[0], weight[0] * np.exp(logits[0]), 0)
  np.testing.assert_allclose(z[0], want / want.sum(), rtol=1e-5)
  np.testing.assert_allclose(z[1], [1.0, 0.0, 0.0, 0.0])
  none = bidding.log_allocation(logits, np.log(weight), np.zeros_like(legal))
  assert np.isneginf(np.asarray(none)).all()


def test_log_allocation_gradient_is_finite_and_masked():
  legal = jnp.array([True, False, True, False])
  loss = lambda logits: bidding.log_allocation(logits, jnp.zeros(4), legal)[0]
  grad = jax.grad(loss)(jnp.array([1.0, 1e30, 2.0, -1e30]))
  share = np.exp(2.0) / (np.exp(1.0) + np.exp(2.0))
  np.testing.assert_allclose(grad, [share, 0.0, -share, 0.0], rtol=1e-5)
  dead = jax.grad(lambda l: bidding.log_allocation(l, l, jnp.zeros(4, bool))[0])(jnp.ones(4))
  assert np.isfinite(np.asarray(dead)).all()


@pytest.mark.parametrize("sigma", [0.6, 2.0])
def test_float32_virtual_bid_equals_float64(sigma):
  exact = values.Lognormal(0.7, sigma)
  bid = exact.quantile(np.linspace(0.001, 0.9999, 400))
  want = exact.virtual_value(bid)
  got = np.asarray(bidding.lognormal_virtual_bid(bid.astype(np.float32), 0.7, sigma))
  assert got.dtype == np.float32
  kept = want > -900
  np.testing.assert_allclose(got[kept], want[kept], rtol=2e-4, atol=2e-4 * np.exp(0.7))
  assert (np.diff(got) >= -1e-5 * np.abs(got[1:])).all()


def test_virtual_bid_limits_and_gradient():
  got = bidding.lognormal_virtual_bid(jnp.array([0.0, 1e-20, 1e6]), 0.0, 0.6)
  assert np.isfinite(np.asarray(got)).all() and got[0] == got[1] == -1e3 and 0.9e6 < got[2] < 1e6
  grad = jax.vmap(jax.grad(lambda b: bidding.lognormal_virtual_bid(b, 0.0, 0.6)))(jnp.array([0.0, 0.5, 1.0, 4.0]))
  assert np.isfinite(np.asarray(grad)).all() and (np.asarray(grad)[1:] > 0).all()


def test_shade():
  bids = np.array([[1.0, 2.0]])
  np.testing.assert_allclose(bidding.shade(bids, 0.5), [[0.5, 1.0]])
  np.testing.assert_allclose(bidding.shade(bids, 0.5, np.array([[False, True]])), [[1.0, 1.0]])
