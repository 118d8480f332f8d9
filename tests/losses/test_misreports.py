"""Misreports by ascent: against closed forms and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ega_jax.losses.misreports import (
  additive_utility,
  ascend_misreports,
  misreport_regret,
  misreport_utility,
  written,
)


def _softmax_auction(bids):
  """Shares an item by a softmax of bids and takes half of what is won: smooth, not truthful, different by bidder."""
  weight = jnp.arange(1.0, bids.shape[-2] + 1.0)[:, None]
  allocation = jax.nn.softmax(4.0 * weight * bids, axis=-2)
  return allocation, 0.5 * (allocation * bids).sum(-1)


def test_utility_of_misreports_is_that_of_a_loop_over_bidders():
  rng = np.random.default_rng(0)
  values, misreports = rng.uniform(size=(2, 7, 3, 2)).astype(np.float32)
  found = misreport_utility(_softmax_auction, values, misreports)
  for row in range(7):
    for bidder in range(3):
      bids = values[row].copy()
      bids[bidder] = misreports[row, bidder]
      allocation, payments = _softmax_auction(bids)
      expected = (allocation[bidder] * values[row, bidder]).sum() - payments[bidder]
      np.testing.assert_allclose(found[row, bidder], expected, rtol=1e-5)


def test_truthful_misreports_have_no_regret_and_regret_is_never_negative():
  values = np.random.default_rng(1).uniform(size=(5, 2, 2)).astype(np.float32)
  np.testing.assert_allclose(misreport_utility(_softmax_auction, values, values),
                             additive_utility(_softmax_auction, values, values), rtol=1e-5)  # fmt: skip
  np.testing.assert_allclose(misreport_regret(_softmax_auction, values, values), 0.0, atol=1e-6)
  assert (misreport_regret(_softmax_auction, values, np.zeros_like(values)) >= 0).all()
  lies = 0.7 * values
  truthful = additive_utility(_softmax_auction, values, values)
  np.testing.assert_array_equal(
    misreport_regret(_softmax_auction, values, lies, truthful), misreport_regret(_softmax_auction, values, lies)
  )


def test_ascent_finds_the_best_bid_of_an_auction_with_a_closed_form():
  # Gets the item with probability b and pays b^2: u = v b - b^2, best at v / 2, regret v^2 / 4.
  auction = lambda bids: (bids, jnp.square(bids).sum(-1))
  values = np.linspace(0.0, 1.0, 11, dtype=np.float32)[:, None, None]
  utility = lambda found: misreport_utility(auction, values, found)
  best, highest = ascend_misreports(utility, jnp.full_like(values, 0.9), 200, 0.05)
  np.testing.assert_allclose(best, values / 2, atol=2e-3)
  np.testing.assert_allclose(highest - additive_utility(auction, values, values), values[..., 0] ** 2 / 4, atol=1e-5)


def test_ascent_keeps_the_best_point_that_it_visits():
  values = jnp.ones((3, 1, 1))
  utility = lambda found: -jnp.abs(found[..., 0] - 0.25)
  best, highest = ascend_misreports(utility, jnp.full_like(values, 0.25), 5, 0.1)  # the start is the best
  np.testing.assert_array_equal(best, 0.25)
  np.testing.assert_array_equal(highest, 0.0)
  best, highest = ascend_misreports(utility, jnp.zeros_like(values), 0, 0.1)  # no step looks at the start
  np.testing.assert_array_equal(best, 0.0)
  np.testing.assert_allclose(highest, -0.25)
  best, _ = ascend_misreports(utility, jnp.zeros_like(values), 1, 0.1)  # the point after the last step counts
  np.testing.assert_allclose(best, 0.1, rtol=1e-4)


def test_ascent_stays_in_the_support():
  utility = lambda found: found.sum(-1)
  best, _ = ascend_misreports(utility, jnp.full((2, 1, 2), 0.5), 30, 0.1, 0.0, 0.8)
  np.testing.assert_allclose(best, 0.8)


def test_a_written_leaf_becomes_the_value_and_adds_nothing_to_a_loss():
  leaf, value = jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([0.5, 2.5, -1.0])
  loss = lambda p: written(p, value)
  assert loss(leaf) == 0.0
  optimizer = optax.scale(-1.0)
  updates, _ = optimizer.update(jax.grad(loss)(leaf), optimizer.init(leaf))
  np.testing.assert_allclose(optax.apply_updates(leaf, updates), value, atol=1e-6)
