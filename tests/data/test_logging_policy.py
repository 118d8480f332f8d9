"""The logging policy: slots, GSP, exploration propensities, and that its logs say what it did."""

import dataclasses

import numpy as np
import pytest

from ega_jax.data import logging_policy, market_prices, marketplace


@pytest.fixture(scope="module")
def market():
  return marketplace.generate(marketplace.TINY, 3)


def test_cascade_merges_ads_and_organic_by_score():
  ad_score = np.array([[-np.inf, -np.inf, -np.inf, 5.0, 1.0, 3.0], [-np.inf] * 6])
  organic = np.array([[2.0, 4.0, 0.5], [1.0, 1.0, 1.0]])
  lists = logging_policy.cascade_lists(ad_score, organic, 3)
  np.testing.assert_array_equal(lists, [[3, 5, 0], [0, 1, 2]])  # organic 1 waits for organic 0


def test_explored_lists_are_legal_and_propensities_are_their_frequencies():
  weight = np.array([1.0, 2.0, 0.5, 3.0, 0.0])  # 2 organic, 3 ads of which one does not exist
  n = 40_000
  uniform = np.random.default_rng(0).random([n, 2])
  items, propensity = logging_policy.explored_lists(np.tile(weight, (n, 1)), 2, 2, uniform)
  total = {}
  for (first, second), p in zip(items.tolist(), propensity.prod(1).tolist(), strict=True):
    total.setdefault((first, second), []).append(p)
  legal = {(0, 1): 1 / 4.5 * 2 / 5.5, (0, 2): 1 / 4.5 * 0.5 / 5.5, (0, 3): 1 / 4.5 * 3 / 5.5, (2, 0): 0.5 / 4.5 / 4}
  legal |= {(2, 3): 0.5 / 4.5 * 3 / 4, (3, 0): 3 / 4.5 / 1.5, (3, 2): 3 / 4.5 * 0.5 / 1.5}
  assert set(total) == set(legal)
  for pair, chance in legal.items():
    np.testing.assert_allclose(total[pair], chance, rtol=1e-12)
    assert abs(len(total[pair]) / n - chance) < 5 * np.sqrt(chance / n)


def test_gsp_charges_the_next_score_over_the_own_ctr():
  bid, pctr = np.array([[0.0, 4.0, 3.0, 2.0]]), np.array([[0.1, 0.1, 0.2, 0.05]])
  is_ad = np.array([[False, True, True, True]])
  score = np.where(is_ad, bid * pctr, -np.inf)  # .4, .6, .1
  items = np.array([[2, 0, 1, 3]], np.int32)
  price = logging_policy.gsp_payments(score, pctr, items, is_ad, bid, 0.3)
  np.testing.assert_allclose(price, [[0.4 / 0.2, 0, 0.1 / 0.1, 0.3]], rtol=1e-6)
  price = logging_policy.gsp_payments(score, pctr, items[:, [0, 1, 3]], is_ad, bid, 0.3)
  np.testing.assert_allclose(price, [[0.1 / 0.2, 0, 0.3]], rtol=1e-6)  # ad 1 is not in the list
  price = logging_policy.gsp_payments(score, pctr, items, is_ad, bid, 2.5)
  np.testing.assert_allclose(price, [[2.5, 0, 2.5, 2]], rtol=1e-6)  # the reserve, but never above the bid
  price = logging_policy.gsp_payments(score, pctr, items[:, :2], is_ad, bid, 0.3)
  np.testing.assert_allclose(price, [[0.4 / 0.2, 0]], rtol=1e-6)  # the lowest of the list pays the next outside


def test_payments_lie_between_zero_and_the_bid(market):
  row = np.arange(1200)[:, None]
  bid = market.requests["bid"][row, market.logs["shown_item"]]
  is_ad = market.requests["is_ad"][row, market.logs["shown_item"]]
  payment = market.logs["shown_payment"]
  assert (payment >= 0).all() and (payment <= bid).all()
  assert (payment[~is_ad] == 0).all() and (payment[is_ad] > 0).all()


def test_logged_lists_are_legal(market):
  items, organic = market.logs["shown_item"], market.config.num_organic
  assert (np.take_along_axis(market.requests["candidates"], items, 1) >= 0).all()
  for row in items:
    assert len(np.unique(row)) == len(row)
    shown = row[row < organic]
    np.testing.assert_array_equal(shown, np.arange(len(shown)))


def test_creatives_belong_to_their_pois(market):
  poi = np.take_along_axis(market.requests["candidates"], market.logs["shown_item"], 1)
  np.testing.assert_array_equal(market.catalog.creative_poi[market.logs["shown_creative"]], poi)
  assert ((market.catalog.poi_creatives >= 0).sum(1) >= 3).all()


def test_propensities_are_one_exactly_where_nothing_was_explored(market):
  explored, propensity = market.logs["explored"], market.logs["shown_propensity"]
  assert abs(explored.mean() - market.config.exploration) < 0.06
  assert (propensity[~explored] == 1).all()
  assert (propensity[explored] > 0).all() and (propensity[explored] <= 1 / 3 + 1e-6).all()  # >= 3 creatives


def test_importance_weights_average_to_one(market):
  """The inverse propensity of a fixed first choice has mean 1 over the exploration share."""
  config = market.config
  candidates = market.requests["candidates"][:1]
  is_ad, bid = market.requests["is_ad"][:1], market.requests["bid"][:1]
  pctr = np.full(candidates.shape, 0.05)
  weight = logging_policy.exploration_weights(bid * pctr, is_ad, pctr, candidates, 2.0, config)
  n = 20_000
  uniform = np.random.default_rng(3).random([n, 1])
  items, propensity = logging_policy.explored_lists(np.repeat(weight, n, 0), config.num_organic, 1, uniform)
  for choice in np.unique(items):
    chance = propensity[items == choice][0]
    assert abs((items == choice).sum() / chance / n - 1) < 5 / np.sqrt(n * chance)


def test_labels_are_nested(market):
  logs = market.logs
  assert (logs["creative_click"] <= logs["click"]).all() and (logs["conversion"] <= logs["click"]).all()


def test_recall_keeps_the_best():
  """By .5 log(1 + own) - .6 log(1 + km) at equal tastes: -.416, -.486, -.659; the last is no ad."""
  feature = {"own": np.array([[0, 5.0, 0, 0]]), "distance": np.array([[1, 9.0, 2, 0]]), "popular": np.zeros([1, 4])}
  feature["taste"] = feature["popular"]
  kept = logging_policy.recalled_ads(feature, np.array([[True, True, True, False]]), 2)
  np.testing.assert_array_equal(kept, [[True, True, False, False]])


def test_the_policy_sees_nothing_latent(market):
  """Another truth behind the same observations moves no list, only clicks."""
  click = dataclasses.replace(marketplace.TINY.click, interest=2.0, quality=2.0, habit=0.0)
  other = marketplace.generate(dataclasses.replace(marketplace.TINY, click=click), 3)
  for name in ("shown_item", "shown_payment", "explored"):
    np.testing.assert_array_equal(other.logs[name], market.logs[name])
  assert (other.logs["click"] != market.logs["click"]).any()


def test_market_prices_reads_the_public_format(tmp_path):
  path = tmp_path / "1.validation.txt"
  path.write_text("3 1000\n1\n0\t10\t0.001\n1\t100\t0.002\n2\n0\t0\t0.5\n")
  prices = market_prices.read_prices(path)
  np.testing.assert_array_equal(prices["price"], [10, 100, 0])
  np.testing.assert_array_equal(prices["click"], [0, 1, 0])
  assert abs(market_prices.level_log_sd(path) - np.log(10) / 2) < 1e-6
  path.write_text("3 1000\n1\n0\t10\n")
  with pytest.raises(ValueError, match=r"validation.txt:3.*allowed"):
    market_prices.read_prices(path)
  path.write_text("3 1000\n1\n0\tnan\t0.1\n")
  with pytest.raises(ValueError, match=r"validation.txt:3.*price >= 0"):
    market_prices.read_prices(path)
