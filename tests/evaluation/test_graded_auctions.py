"""Grading of auctions: against a loop in numpy, and on auctions whose regret and revenue are known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.evaluation.additive_auction import GRID, grade, known_bounds, single_item_revenue


def _second_price(bids):
  """Sells each item to its highest bid at the second highest (0 if alone)."""
  allocation = (bids == bids.max(-2, keepdims=True)).astype(jnp.float32)
  second = jnp.sort(bids, axis=-2)[..., -2, :] if bids.shape[-2] > 1 else jnp.zeros_like(bids[..., 0, :])
  return allocation, (allocation * second[..., None, :]).sum(-1)


def _first_price(bids):
  allocation = (bids == bids.max(-2, keepdims=True)).astype(jnp.float32)
  return allocation, (allocation * bids).sum(-1)


def _smooth(bids):
  allocation = jax.nn.softmax(3.0 * jnp.concatenate([bids, jnp.full_like(bids[..., :1, :], 0.3)], axis=-2), axis=-2)
  allocation = allocation[..., :-1, :]
  return allocation, 0.7 * (allocation * bids).sum(-1)


def _values(count, bidders, items, seed=0):
  return np.random.default_rng(seed).uniform(size=(count, bidders, items)).astype(np.float32)


SIZES = {"grid_profiles": 20, "ascent_profiles": 5}


@pytest.mark.parametrize(("bidders", "items"), [(2, 1), (3, 1), (2, 2)])
def test_second_price_has_no_regret_and_its_known_revenue(bidders, items):
  figures = grade(_second_price, _values(20000, bidders, items), **SIZES)
  assert figures["regret_max"] <= 1e-6
  assert figures["ir_violations"] == 0
  expected = items * (bidders - 1) / (bidders + 1)  # the second highest of n uniform values, without a reserve
  assert abs(figures["revenue"] - expected) < 5 * figures["revenue_stderr"]


@pytest.mark.parametrize(("bidders", "items"), [(2, 1), (1, 2), (2, 2)])
def test_grid_regret_is_that_of_a_loop_and_ascent_adds_little_to_a_smooth_one(bidders, items):
  values = _values(3, bidders, items)
  figures = grade(_smooth, values, grid_profiles=3, ascent_profiles=3)
  axis = np.linspace(0, 1, GRID[items])
  found = []
  for profile, bidder in itertools.product(values, range(bidders)):
    bids = np.repeat(profile[None], GRID[items] ** items, axis=0)
    bids[:, bidder] = list(itertools.product(axis, repeat=items))
    allocation, payments = (np.asarray(a, np.float64) for a in _smooth(np.concatenate([profile[None], bids])))
    utility = (allocation[:, bidder] * profile[bidder]).sum(-1) - payments[:, bidder]
    found.append(utility[1:].max() - utility[0])
  np.testing.assert_allclose(figures["regret_grid"], np.maximum(found, 0).mean(), rtol=1e-4, atol=1e-6)
  assert figures["regret"] >= figures["regret_grid"] - 1e-7
  assert figures["regret"] == pytest.approx(figures["regret_grid"], rel=0.05, abs=1e-5)
  allocation, payments = (np.asarray(a, np.float64) for a in _smooth(values))
  worth, paid = (allocation * values).sum((1, 2)), payments.sum(1)
  assert figures["welfare"] == pytest.approx(worth.mean(), rel=1e-5)
  assert figures["revenue_stderr"] == pytest.approx(paid.std(ddof=1) / 3**0.5, rel=1e-5)


def test_refinement_finds_what_lies_between_points_of_the_grid():
  # Utility v b - b^2 is best at v / 2, between two points of the grid; only ascent by its spacing gets there.
  auction = lambda bids: (bids, jnp.square(bids).sum(-1))
  values = np.full((2, 1, 1), 0.993, np.float32)
  figures = grade(auction, values, grid_profiles=2, ascent_profiles=2)
  best, on_grid = 0.993**2 / 4, np.max(0.993 * np.linspace(0, 1, 201) - np.linspace(0, 1, 201) ** 2)
  assert figures["regret_grid"] == pytest.approx(on_grid, abs=1e-7)  # the truth pays v^2: utility 0
  assert best - figures["regret"] < 0.1 * (best - on_grid)


def test_first_price_regret_is_what_the_winner_overpays():
  values = _values(200, 2, 1)
  figures = grade(_first_price, values, grid_profiles=200, ascent_profiles=2)
  # The winner could bid just above the other, to the next point of the grid; the loser has nothing to gain.
  overpaid = values.max((1, 2)) - (np.floor(values.min((1, 2)) * 200) + 1) / 200
  np.testing.assert_allclose(figures["regret_grid"], np.maximum(overpaid, 0).mean() / 2, atol=1e-5)
  assert figures["regret_over_payment"] == pytest.approx(2 * figures["regret"] / figures["revenue"], rel=1e-5)


def test_three_items_are_searched_by_ascent_from_many_starts():
  values = _values(8, 2, 3)
  figures = grade(_smooth, values, grid_profiles=8, ascent_profiles=4, starts=10, ascent_steps=100)
  assert figures["searched_profiles"] == 4
  assert "regret_grid" not in figures
  # Items are sold apart: a bidder's best misreport is the best for each item.
  axis = np.linspace(0, 1, 2001, dtype=np.float32)
  found = []
  for profile, bidder in itertools.product(values[:4], range(2)):
    gain = 0.0
    for item in range(3):
      bids = np.repeat(profile[None, :, item : item + 1], 2002, axis=0)
      bids[1:, bidder, 0] = axis
      allocation, payments = _smooth(bids)
      utility = allocation[:, bidder, 0] * profile[bidder, item] - payments[:, bidder]
      gain += float(utility[1:].max() - utility[0])
    found.append(gain)
  np.testing.assert_allclose(figures["regret"], np.mean(found), rtol=1e-3)


def test_payments_above_the_worth_are_counted():
  greedy = lambda bids: (jnp.full_like(bids, 0.4), 1.1 * 0.4 * bids.sum(-1))
  assert grade(greedy, _values(50, 2, 1), grid_profiles=2, ascent_profiles=2)["ir_violations"] == 100


@pytest.mark.parametrize(("items", "searched"), [(1, 1), (2, 51), (3, 0)])
def test_a_search_of_too_few_or_too_many_profiles_is_refused(items, searched):
  name = "ascent_profiles" if items == 3 else "grid_profiles"
  with pytest.raises(ValueError, match=f"{name} is {searched} of 50 profiles"):
    grade(_smooth, _values(50, 2, items), **{"grid_profiles": 2, "ascent_profiles": 2, name: searched})


def test_known_bounds():
  assert [round(single_item_revenue(n), 6) for n in (1, 2, 3, 4, 5)] == [0.25, 0.416667, 0.53125, 0.6125, 0.671875]
  assert known_bounds(1, 2)["optimum"] == pytest.approx(0.549201, abs=1e-6)
  assert known_bounds(2, 2) == {"item_wise_myerson": pytest.approx(0.833333, abs=1e-6)}
  assert known_bounds(3, 1)["optimum"] == known_bounds(3, 1)["item_wise_myerson"] == pytest.approx(0.53125)
