"""Menus: isotonic regression against scipy, the payment against its integral, and Myerson's where the curve rises."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from ega_jax.auction import menu, regret

RNG = np.random.default_rng(0)
isotonic_regression, menu_payment = jax.jit(menu.isotonic_regression), jax.jit(menu.menu_payment)


def test_isotonic_regression_equals_scipys():
  x, weight = RNG.random((5, 3, 17)), RNG.random((5, 3, 17)) + 0.01
  got = np.asarray(isotonic_regression(jnp.asarray(x), jnp.asarray(weight)))
  for at in np.ndindex(5, 3):
    want = optimize.isotonic_regression(x[at], weights=weight[at]).x
    np.testing.assert_allclose(got[at], want, rtol=2e-5)


def test_the_payment_is_the_integral_of_the_inverse():
  level, bid = np.sort(RNG.random((4, 6)), -1), np.sort(RNG.random((4, 6)), -1)
  x = np.concatenate([RNG.random((4, 5)), np.zeros((4, 1)), np.full((4, 1), 1.2)], -1)
  got = np.asarray(menu_payment(jnp.asarray(level), jnp.asarray(bid), jnp.asarray(x)))
  grid = (np.arange(120_000) + 0.5) / 100_000
  for row in range(4):
    inverse = bid[row][np.minimum(np.searchsorted(level[row], grid), 5)]
    want = [(inverse * (grid < amount)).sum() / 100_000 for amount in x[row]]
    np.testing.assert_allclose(got[row], want, atol=2e-5)
  assert (got[:, 5] == 0).all()


def test_any_curve_is_a_menu_and_its_order_does_not_matter():
  bid = np.concatenate([[0.0], np.cumsum(np.full(6, 0.3))])
  level = RNG.random(7)
  x = np.linspace(0, 1.3, 200)
  pay = lambda levels: np.asarray(menu_payment(jnp.asarray(levels), jnp.asarray(bid), jnp.asarray(x)))
  assert (np.diff(pay(level), 2) >= -1e-6).all() and (np.diff(pay(level)) >= -1e-6).all()
  np.testing.assert_allclose(pay(np.append(level[:-1][::-1], level[-1])), pay(level), rtol=1e-5)


def test_on_a_rising_curve_it_is_myersons():
  nodes = np.sort(RNG.random((3, 2, 12)), -1)
  x = np.sort(RNG.random((3, 2, 12)), -1)
  table = regret.CounterfactualTable(nodes=nodes, x=x, ads=np.zeros((3, 2), int))
  level = isotonic_regression(jnp.asarray(x), jnp.ones(x.shape))
  paid = menu_payment(level, jnp.asarray(nodes), jnp.asarray(x))
  np.testing.assert_allclose(paid, regret.myerson_integral(table).expected, rtol=1e-4)


def test_regret_is_at_most_what_the_menu_would_have_given():
  nodes, x = np.linspace(0, 2, 15), np.clip(np.linspace(0, 1, 15) + 0.2 * RNG.normal(size=(40, 15)), 0, 1)
  level = isotonic_regression(jnp.asarray(x), jnp.ones(x.shape))
  bids = jnp.broadcast_to(nodes, x.shape)
  pay = lambda amount: np.asarray(menu_payment(level, bids, jnp.asarray(amount)))
  utility = nodes[:, None] * x[:, None] - pay(x)[:, None]  # [curve, value, report]
  truth = np.diagonal(utility, axis1=1, axis2=2)
  choice = nodes * np.asarray(level) - pay(np.asarray(level))  # y(z), the best of the menu for a value z
  assert (utility.max(-1) <= choice + 1e-5).all()
  free = np.linspace(0, 1, 300)
  anything = nodes[:, None] * free - pay(np.broadcast_to(free, (40, 300)))[:, None]
  np.testing.assert_array_less(anything.max(-1), choice + 1e-5)
  assert ((utility.max(-1) - truth) >= -1e-6).all()
