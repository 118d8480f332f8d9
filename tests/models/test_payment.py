"""The price never depends on the own bid but by the cap; the rate is the paper's; competitors are order-free."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles_models as oracle
from ega_jax.models import payment

SHAPE, LENGTH = (3, 2, 5), 4


def _inputs():
  rng = np.random.default_rng(0)
  theta = rng.uniform(0.01, 0.2, (*SHAPE, LENGTH)).astype(np.float32)
  bids = rng.lognormal(size=(*SHAPE, LENGTH)).astype(np.float32) * 4
  is_ad = np.ones((*SHAPE, LENGTH), bool)
  competitors = rng.lognormal(size=(*SHAPE, 10, 2)).astype(np.float32)
  own = rng.integers(0, LENGTH, SHAPE).astype(np.int32)
  return theta, bids, is_ad, competitors, own


def _network(form, *args):
  module = payment.PaymentNetwork(payment.PaymentConfig(payment=form, money_scale=2.0))
  boxed = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
  params = oracle.random_params(np.random.default_rng(1), boxed, scale=0.15)
  return params, lambda params, *args: module.apply({"params": params}, *args)


def _with_own_bid(bids, own, value):
  changed = bids.copy()
  np.put_along_axis(changed, own[..., None], value, axis=-1)
  return changed


def test_price_is_constant_in_the_own_bid_up_to_the_cap():
  theta, bids, is_ad, competitors, own = _inputs()
  params, apply = _network("price", theta, bids, is_ad, competitors, own)
  high = apply(params, theta, _with_own_bid(bids, own, 1e6), is_ad, competitors, own)
  higher = apply(params, theta, _with_own_bid(bids, own, 1e7), is_ad, competitors, own)
  np.testing.assert_array_equal(high, higher)
  low = apply(params, theta, _with_own_bid(bids, own, 0.1), is_ad, competitors, own)
  np.testing.assert_allclose(low, np.minimum(high, 0.1), rtol=1e-5)
  assert high.shape == SHAPE and (high > 0).all() and np.std(high) > 1e-3
  other = apply(params, theta, bids, is_ad, competitors * 3, own)
  assert np.abs(other - apply(params, theta, bids, is_ad, competitors, own)).max() > 1e-3


def test_gradient_passes_the_cap():
  args = _inputs()
  capped = (args[0], _with_own_bid(args[1], args[4], 1e-3), *args[2:])
  params, apply = _network("price", *capped)
  gradient = jax.grad(lambda p: apply(p, *capped).sum())(params)
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_rate_is_a_share_of_the_own_bid():
  theta, bids, is_ad, competitors, own = _inputs()
  z = np.random.default_rng(2).random(theta.shape).astype(np.float32)
  params, apply = _network("rate", theta, bids, is_ad, competitors, own, z)
  one = apply(params, theta, _with_own_bid(bids, own, 1.0), is_ad, competitors, own, z)
  five = apply(params, theta, _with_own_bid(bids, own, 5.0), is_ad, competitors, own, z)
  np.testing.assert_allclose(five, 5 * one, rtol=1e-5)
  assert ((one > 0) & (one < 1)).all()


def test_form_and_z_must_agree():
  args = _inputs()
  with pytest.raises(ValueError, match="z is given for payment 'price'"):
    _network("price", *args, args[0])
  with pytest.raises(ValueError, match="z is missing for payment 'rate'"):
    _network("rate", *args)
  with pytest.raises(ValueError, match="payment is 'free'"):
    payment.PaymentConfig(payment="free")
  with pytest.raises(ValueError, match="money_scale is 0"):
    payment.PaymentConfig(money_scale=0)


def test_top_competitors_equal_a_sort_and_do_not_see_the_order():
  rng = np.random.default_rng(3)
  bids, rate = rng.lognormal(size=(6, 14)), rng.random((6, 14))
  eligible = rng.random((6, 14)) < 0.5
  got = np.asarray(payment.top_competitors(jnp.asarray(bids), jnp.asarray(rate), jnp.asarray(eligible)))
  for b in range(6):
    ranked = sorted(((bids[b, i], rate[b, i]) for i in np.flatnonzero(eligible[b])), key=lambda x: -x[0] * x[1])
    want = np.zeros((10, 2))
    want[: len(ranked)] = ranked[:10]
    np.testing.assert_allclose(got[b], want, rtol=1e-6)
  order = rng.permutation(14)
  again = payment.top_competitors(bids[:, order], rate[:, order], eligible[:, order])
  np.testing.assert_allclose(again, got, rtol=1e-6)
  assert payment.top_competitors(bids[:, :3], rate[:, :3], eligible[:, :3]).shape == (6, 10, 2)
