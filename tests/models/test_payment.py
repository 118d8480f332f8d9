"""The price depends on the own bid by the cap and by what is shown alone; the rate is the paper's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles_models as oracle
from ega_jax.auction import menu
from ega_jax.models import payment

NODES, SHAPE, LENGTH = 9, (3, 2), 4


def _price_inputs(seed=0):
  rng = np.random.default_rng(seed)
  nodes = np.broadcast_to(np.concatenate([[0.0], np.geomspace(0.1, 4, NODES - 1)]), (*SHAPE, NODES))
  curve = np.clip(np.linspace(0, 0.1, NODES) + 0.02 * rng.normal(size=(*SHAPE, NODES)), 0, 1)
  weight = rng.dirichlet(np.ones(NODES), SHAPE)
  shown = np.sort(curve.max(-1, keepdims=True) * rng.uniform(0.2, 1, (*SHAPE, 5)), -1)
  return payment.menu_inputs(*(jnp.asarray(x, jnp.float32) for x in (nodes, curve, weight, shown)))


def _rate_inputs(seed=0):
  rng = np.random.default_rng(seed)
  bids, probability = rng.lognormal(size=(*SHAPE, 5, LENGTH)) * 4, rng.uniform(0, 0.05, (*SHAPE, 5, LENGTH))
  slot = rng.integers(0, LENGTH, (*SHAPE, 5))
  return payment.RateInputs(*(jnp.asarray(x) for x in (bids, probability, slot)))


def _network(form, inputs, scale=0.3):
  module = payment.payment_network(form)
  boxed = jax.eval_shape(module.init, jax.random.key(0), inputs, jnp.ones((*SHAPE, 5)))["params"]
  params = oracle.random_params(np.random.default_rng(1), boxed, scale=scale)

  @functools.partial(jax.jit, static_argnames="straight_through")
  def apply(params, own, inputs=inputs, *, straight_through=True):
    return module.apply({"params": params}, inputs, own, straight_through=straight_through)

  return params, apply


def test_the_own_bid_only_caps_the_price():
  inputs = _price_inputs()
  params, apply = _network("price", inputs)
  high, higher = (apply(params, jnp.full((*SHAPE, 5), bid)) for bid in (1e6, 1e7))
  np.testing.assert_array_equal(high, higher)
  assert high.shape == (*SHAPE, 5) and (high >= 0).all() and np.std(high) > 1e-3
  np.testing.assert_allclose(apply(params, jnp.full((*SHAPE, 5), 0.1)), np.minimum(high, 0.1), rtol=1e-5)


def test_more_clicks_cost_more_each():
  # A menu is convex: neither the expected payment nor the price per click falls with the clicks shown.
  for seed, scale in enumerate((0.1, 0.2, 0.3, 0.5, 1.0, 2.0)):
    inputs = _price_inputs(seed)
    params, apply = _network("price", inputs, scale=scale)
    x = jnp.linspace(0.01, 1, 60) * inputs.curve.max(-1, keepdims=True)
    inputs = payment.menu_inputs(inputs.nodes, inputs.curve, inputs.weight, x)
    price = np.asarray(apply(params, jnp.full(x.shape, 1e6), inputs))
    assert (np.diff(price, axis=-1) >= -1e-5).all() and (np.diff(price * x, 2, axis=-1) >= -1e-5).all()


def test_untrained_it_is_the_isotonic_menu_with_steps_half_way():
  inputs = _price_inputs()
  module = payment.payment_network("price")
  params = jax.jit(module.init)(jax.random.key(0), inputs, jnp.ones((*SHAPE, 5)))["params"]
  apply = jax.jit(lambda inputs, own: module.apply({"params": params}, inputs, own))
  price = apply(inputs, jnp.full((*SHAPE, 5), 1e6))
  level = menu.isotonic_regression(inputs.curve, inputs.weight + 1e-6)
  bid = inputs.nodes - 0.5 * jnp.diff(inputs.nodes, axis=-1, prepend=0)
  np.testing.assert_allclose(price, menu.menu_payment(level, bid, inputs.x) / inputs.x, rtol=1e-4)
  nothing = payment.menu_inputs(inputs.nodes, inputs.curve * 0, inputs.weight, inputs.x * 0)
  assert (np.asarray(apply(nothing, jnp.ones((*SHAPE, 5)))) == 0).all()


def test_the_price_reads_the_curve():
  inputs = _price_inputs()
  params, apply = _network("price", inputs)
  own = jnp.full((*SHAPE, 5), 1e6)
  later = payment.menu_inputs(inputs.nodes * 2, inputs.curve, inputs.weight, inputs.x)
  np.testing.assert_allclose(apply(params, own, later), 2 * apply(params, own), rtol=1e-5)  # prices are in bids
  half = payment.menu_inputs(inputs.nodes, inputs.curve / 2, inputs.weight, inputs.x / 2)
  np.testing.assert_allclose(apply(params, own, half), apply(params, own), rtol=1e-4)  # and per click


def test_gradient_passes_the_cap_at_the_truth_only():
  inputs = _price_inputs()
  params, apply = _network("price", inputs)
  own = jnp.full((*SHAPE, 5), 1e-3)
  gradient = jax.grad(lambda p: apply(p, own).sum())(params)
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
  gradient = jax.grad(lambda p: apply(p, own, straight_through=False).sum())(params)
  assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient))


def test_rate_is_a_share_of_the_own_bid():
  inputs = _rate_inputs()
  params, apply = _network("rate", inputs, scale=0.15)
  one, five = (apply(params, jnp.full((*SHAPE, 5), bid)) for bid in (1.0, 5.0))
  np.testing.assert_allclose(five, 5 * one, rtol=1e-5)
  assert ((one > 0) & (one < 1)).all() and np.std(one) > 1e-3


def test_an_unknown_form_is_named():
  with pytest.raises(ValueError, match="payment is 'free'"):
    payment.payment_network("free")
