"""The payment loss: formulas, Eq. 35 as an optimizer, masks, and where gradients may not flow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ega_jax.losses import lagrangian

RNG = np.random.default_rng(0)
X = jnp.asarray(np.sort(RNG.uniform(size=(3, 2, 8)), -1), jnp.float32)
NODES = jnp.asarray(np.sort(RNG.uniform(size=(3, 2, 8)), -1), jnp.float32)
PRICES = 0.5 * NODES
OWN = jnp.asarray(RNG.integers(8, size=(3, 2)))


def take(values, own=OWN):
  return jnp.take_along_axis(values, own[..., None], -1)[..., 0]


def loss_of(prices, multiplier=0.7, rho=2.0, x=X, where=None, **kwargs):
  regret = lagrangian.table_regret(prices, x, NODES, OWN)
  return lagrangian.payment_loss(
    take(prices), take(x), take(NODES), take(NODES), regret, multiplier, rho, where=where, **kwargs
  )


def test_cap_price_is_straight_through():
  price, bid = jnp.array([0.3, 2.0]), jnp.array([1.0, 1.0])
  np.testing.assert_allclose(lagrangian.cap_price(price, bid), [0.3, 1.0])
  to_price, to_bid = jax.grad(lambda p, b: lagrangian.cap_price(p, b).sum(), argnums=(0, 1))(price, bid)
  assert to_price.tolist() == [1.0, 1.0] and to_bid.tolist() == [0.0, 0.0]
  hard = lambda p, b: lagrangian.cap_price(p, b, straight_through=False).sum()
  to_price, to_bid = jax.grad(hard, argnums=(0, 1))(price, bid)
  assert to_price.tolist() == [1.0, 0.0] and to_bid.tolist() == [0.0, 0.0]


def test_rate_price_is_a_share_of_the_bid():
  logit, bid = jnp.array([-50.0, 0.0, 50.0]), jnp.array([2.0, 2.0, 2.0])
  np.testing.assert_allclose(lagrangian.rate_price(logit, bid), [0.0, 1.0, 2.0], atol=1e-6)
  assert not jax.grad(lambda b: lagrangian.rate_price(logit, b).sum())(bid).any()


def test_table_regret_equals_loops():
  got = lagrangian.table_regret(PRICES, X, NODES, OWN)
  for b, a in np.ndindex(3, 2):
    value = NODES[b, a, OWN[b, a]]
    utility = [(value - PRICES[b, a, k]) * X[b, a, k] for k in range(8)]
    np.testing.assert_allclose(got[b, a], max(utility) - utility[OWN[b, a]], rtol=1e-5, atol=1e-7)
  assert float(got.max()) > 0
  own_only = jnp.zeros((3, 2, 8), bool)
  assert not lagrangian.table_regret(PRICES, X, NODES, OWN, where=own_only).any()


def test_a_node_truthful_price_has_no_regret():
  paid = jnp.cumsum(NODES * jnp.diff(X, axis=-1, prepend=0.0), -1)
  assert float(lagrangian.table_regret(paid / X, X, NODES, OWN).max()) < 1e-6


@pytest.mark.parametrize("square", ["each", "mean"])
def test_loss_formula(square):
  total, weight, metrics = loss_of(PRICES, square=square)
  regret = np.asarray(lagrangian.table_regret(PRICES, X, NODES, OWN))
  revenue = np.asarray(take(PRICES) * take(X)).sum()
  squares = (regret**2).sum() if square == "each" else 3 * (regret.mean(0) ** 2).sum()
  np.testing.assert_allclose(total, -revenue + 0.7 * regret.sum() + 1.0 * squares, rtol=1e-5)
  assert weight == 6
  np.testing.assert_allclose(metrics["revenue"][0], revenue, rtol=1e-6)
  lost, paid = metrics["regret_over_payment"]
  np.testing.assert_allclose(lost / paid, regret.sum() / revenue, rtol=1e-6)
  with pytest.raises(ValueError, match="square"):
    loss_of(PRICES, square="sum")


def test_masked_equals_dropped_and_all_masked_is_zero():
  where = jnp.array([[True, True], [False, False], [True, False]])
  total, weight, _ = loss_of(PRICES, where=where)
  parts = [loss_of(PRICES, where=where & (jnp.arange(6).reshape(3, 2) == k))[0] for k in range(6)]
  np.testing.assert_allclose(total, sum(parts), rtol=1e-5)
  assert weight == 3
  bad = PRICES.at[1].set(jnp.nan)
  np.testing.assert_allclose(loss_of(bad, where=where)[0], total, rtol=1e-6)
  none = jnp.zeros((3, 2), bool)
  value, grad = jax.value_and_grad(lambda p: loss_of(p, where=none)[0])(PRICES)
  assert value == 0 and not grad.any() and np.isfinite(np.asarray(grad)).all()


def test_payment_does_not_move_the_allocation():
  assert not jax.grad(lambda x: loss_of(PRICES, x=x)[0])(X).any()
  moved = jax.grad(lambda x: lagrangian.table_regret(PRICES, x, NODES, OWN, stop_allocation=False).sum())(X)
  assert moved.any()
  assert jax.grad(lambda p: loss_of(p)[0])(PRICES).any()


def test_stop_truthful_leaves_the_truth_alone():
  grad = jax.grad(lambda p: lagrangian.table_regret(p, X, NODES, OWN, stop_truthful=True).sum())(PRICES)
  full = jax.grad(lambda p: lagrangian.table_regret(p, X, NODES, OWN).sum())(PRICES)
  lost = np.asarray(lagrangian.table_regret(PRICES, X, NODES, OWN)) > 0
  assert lost.any() and not np.asarray(take(grad))[lost].any() and np.asarray(take(full))[lost].all()


def test_scaling_the_multipliers_gradient_by_rho_is_the_dual_ascent():
  rho, multiplier = 0.3, jnp.full((2,), 0.7)

  def mean_loss(multiplier):
    total, weight, _ = loss_of(PRICES, multiplier, rho)
    return total / weight

  optimizer = optax.scale(+rho)
  update, _ = optimizer.update(jax.grad(mean_loss)(multiplier), optimizer.init(multiplier))
  # Per ad column: the batch's sum over the number of ads that count, here a share 1/2 of the column's own mean.
  regret = lagrangian.table_regret(PRICES, X, NODES, OWN)
  want = lagrangian.ascend(multiplier, regret.sum(0) / regret.size, rho)
  np.testing.assert_allclose(optax.apply_updates(multiplier, update), want, rtol=1e-6)
  scalar = jax.grad(lambda m: mean_loss(m))(jnp.float32(0.7))
  np.testing.assert_allclose(scalar, regret.mean(), rtol=1e-5)


def test_budgeted_multiplier():
  f = lambda w, regret: float(lagrangian.budgeted_multiplier(w, regret, 2.0, 0.01))
  assert f(1.0, 0.02) == pytest.approx(1.0, abs=1e-5)
  assert f(1.0, 0.04) == pytest.approx(1.0 + 0.5 * np.log(2), rel=1e-5)
  assert f(0.1, 0.0001) == 0.0 and np.isfinite(f(1.0, 0.0))
  total = lagrangian.budgeted_loss(take(PRICES), take(X), jnp.ones((3, 2)), jnp.float32(4.0))[0]
  np.testing.assert_allclose(total, -(take(PRICES) * take(X)).sum() + 24, rtol=1e-6)
  grad = jax.grad(lambda w: lagrangian.budgeted_loss(take(PRICES), take(X), jnp.ones((3, 2)), w)[0])(jnp.float32(4.0))
  assert grad == 0.0


@pytest.mark.parametrize("start", [0.1, 1.5])
def test_a_learned_price_finds_the_posted_price(start):
  # One ad, values uniform on the nodes, x = 1 above a threshold of .5: a constant price learns about the threshold.
  nodes = jnp.broadcast_to(jnp.linspace(0.0, 1.0, 65), (64, 1, 65))
  x, own = (nodes >= 0.5) * 1.0, jnp.arange(1, 65)[:, None]
  params = {"price": jnp.float32(start), "multiplier": jnp.float32(1.0)}
  rho = 1.0
  label = {"price": "descend", "multiplier": "ascend"}
  optimizer = optax.multi_transform({"descend": optax.adam(0.02), "ascend": optax.scale(rho)}, label)

  @jax.jit
  def step(params, state):
    def loss(params):
      value = take(nodes, own)
      prices = lagrangian.cap_price(params["price"], nodes, straight_through=False)
      paid = lagrangian.cap_price(params["price"], value)
      regret = lagrangian.table_regret(prices, x, nodes, own, own_prices=paid)
      total, weight, _ = lagrangian.payment_loss(paid, take(x, own), value, value, regret, params["multiplier"], rho)
      return total / weight

    update, state = optimizer.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, update), state

  state = optimizer.init(params)
  for _ in range(300):
    params, state = step(params, state)
  assert abs(float(params["price"]) - 0.5) < 0.03
