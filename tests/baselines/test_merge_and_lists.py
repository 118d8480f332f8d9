"""Lists of the baselines against slow loops: greedy slots, ads ranked into their slots, best of many."""

import numpy as np
import pytest

from ega_jax.baselines import cascade, list_generation
from ega_jax.decoding.slate import Objective
from ega_jax.systems import merge
from oracles_evaluation import greedy_by_loop, score_by_loop, scored_market

LENGTH = 5


def test_greedy_merge_is_the_loop():
  score, is_ad, valid = scored_market()
  for length in (LENGTH, 9):
    found = np.asarray(merge.greedy_merge(score, is_ad, valid, length))
    for b in range(len(score)):
      for g in range(score.shape[1]):
        assert found[b, g].tolist() == greedy_by_loop(score[b, g], is_ad[b], valid[b], length)
  assert (found[0] == -1).any()  # the short request ran out


def test_ties_go_to_the_earlier_position_and_share_is_what_it_says():
  _, is_ad, valid = scored_market()
  found = np.asarray(merge.greedy_merge(np.ones((4, 1, valid.shape[1]), np.float32), is_ad, valid, 3))
  np.testing.assert_array_equal(found[1, 0], [0, 1, 2])
  items = np.array([[[0, 6, -1]], [[6, 7, 1]]])
  assert float(merge.ad_share(items, is_ad[:2])) == np.float32(3 / 5)


def test_ads_are_ranked_among_their_slots():
  rng = np.random.default_rng(2)
  _, is_ad, _ = scored_market()
  items = np.array([[6, 0, 7, 9, -1], [0, 1, 8, 2, 6], [0, 1, 2, 3, 4], [9, 8, 7, 6, 0]])
  theta = rng.random((4, LENGTH)).astype(np.float32)
  bids = rng.random((4, 3, is_ad.shape[1])).astype(np.float32)
  found = list_generation.rank_ads(items, theta, bids, is_ad)
  for b in range(4):
    for g in range(3):
      slots = [k for k in range(LENGTH) if items[b, k] >= 0 and is_ad[b, items[b, k]]]
      order = sorted(slots, key=lambda k: -bids[b, g, items[b, k]] * theta[b, k])
      expected = items[b].copy()
      expected[slots] = items[b, order]
      np.testing.assert_array_equal(found[b, g], expected)


@pytest.mark.parametrize("price", [0.0, 0.3])
def test_best_list_is_the_loop_with_ties_to_the_first(price):
  rng = np.random.default_rng(3)
  score, is_ad, valid = scored_market(seed=3)
  lists = np.stack([merge.greedy_merge(rng.random(score.shape, np.float32), is_ad, valid, 4) for _ in range(5)], 2)
  lists[0, 0, 1, 2:] = -1
  lists = np.concatenate([lists, lists[:, :, :1]], 2)
  theta = rng.random(lists.shape)
  theta[:, :, -1] = theta[:, :, 0]
  bids = rng.random(score.shape)
  items, chosen = cascade.best_list(lists, theta, bids, is_ad, Objective(0.4, price))
  for b in range(4):
    for g in range(3):
      pairs = zip(lists[b, g], theta[b, g], strict=True)
      total = [score_by_loop(row, clicks, bids[b, g], is_ad[b], 0.4, price) for row, clicks in pairs]
      best = int(np.argmax(total))
      np.testing.assert_array_equal(items[b, g], lists[b, g, best])
      np.testing.assert_array_equal(chosen[b, g], theta[b, g, best])


def test_fixed_slots_are_spread_evenly():
  for length in (4, 10):
    for count in range(length + 1):
      slots = np.flatnonzero(cascade._spread(count, length))
      assert len(slots) == count
      if count > 1:
        assert np.diff(slots).max() - np.diff(slots).min() <= 1
