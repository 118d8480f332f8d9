"""Counterfactual estimates from exploration logs, against the known reward of a slate."""

import numpy as np
import pytest

from ega_jax.decoding.slate import Objective
from ega_jax.evaluation import snips


def logs_of(seed, count=40_000, items=6, slots=2, noise=1.5):
  """Returns (logs, click probability [items, slots]) of Plackett-Luce exploration with step propensities."""
  rng = np.random.default_rng(seed)
  score = np.exp(noise * rng.normal(size=items))
  click_rate = rng.uniform(0.05, 0.5, (items, slots))
  shown, propensity = np.zeros((count, slots), int), np.zeros((count, slots))
  left = np.broadcast_to(score, (count, items)).copy()
  for slot in range(slots):
    share = left / left.sum(1, keepdims=True)
    shown[:, slot] = (rng.random(count)[:, None] > share.cumsum(1)).sum(1).clip(max=items - 1)
    propensity[:, slot] = np.take_along_axis(share, shown[:, slot, None], 1)[:, 0]
    np.put_along_axis(left, shown[:, slot, None], 0, 1)
  click = rng.random((count, slots)) < click_rate[shown, np.arange(slots)]
  explored = np.arange(count) % 2 == 0
  # What is not exploration is full of lies: it must not be read.
  click, propensity = np.where(explored[:, None], click, True), np.where(explored[:, None], propensity, 1.0)
  logs = dict(shown_item=shown, shown_creative=shown * 10, shown_propensity=propensity, explored=explored, click=click)
  return logs, click_rate


def test_recovers_the_reward_of_an_unlogged_slate():
  errors, claimed = [], []
  for seed in range(8):
    logs, rate = logs_of(seed)
    slate = np.argsort(rate.sum(1))[:2][None].repeat(len(logs["click"]), 0)
    found = snips.snips(logs, slate, slate * 10, logs["click"])
    # Slots are weighed by how often the slate's item is still open there; by slot the truth is exact.
    by_slot = [snips.snips(logs, *_only(slate, slot), logs["click"]) for slot in (0, 1)]
    errors += [one.value - rate[slate[0, slot], slot] for slot, one in enumerate(by_slot)]
    claimed += [one.standard_error for one in by_slot]
    assert min(rate[slate[0], [0, 1]]) - 0.05 < found.value < max(rate[slate[0], [0, 1]]) + 0.05
    assert 0 < found.effective_size <= found.matched
  assert np.sqrt(np.mean(np.square(np.array(errors) / np.array(claimed)))) < 1.6
  assert np.mean(np.abs(errors)) < 0.03


def _only(slate, slot):
  items = np.where(np.arange(2) == slot, slate, -1)
  return items, items * 10


def test_creatives_must_match_and_nothing_matched_is_nan():
  logs, _ = logs_of(0, count=2000)
  slate = np.zeros((2000, 2), int)
  assert np.isnan(snips.snips(logs, slate, slate + 1, logs["click"]).value)
  assert snips.snips(logs, slate, slate + 1, logs["click"], match_creative=False).matched > 0


def test_score_of_totals_and_logs():
  totals = {"model/welfare": np.array([1.0, 2]), "model/organic_clicks": np.array([0.5, 0.1])}
  totals["ad_impressions"] = np.array([3.0, 1])
  assert snips.request_scores(totals, Objective(2.0)) == pytest.approx([2, 2.2])
  assert snips.request_scores(totals, Objective(2.0, 0.1)) == pytest.approx([1.7, 2.1])
  logs = dict(shown_item=np.array([[1, 0, -1]]), click=np.array([[1, 1, 1]]), bid=np.array([[0.0, 3.0]]))
  logs["is_ad"] = np.array([[False, True]])
  np.testing.assert_allclose(snips.score_reward(logs, Objective(0.5)), [[3.0, 0.5, 0.0]])
  unclicked = logs | {"click": np.zeros((1, 3))}
  for given, clicks in ((logs, [[3.0, 0.5, 0.0]]), (unclicked, [[0.0, 0.0, 0.0]])):  # an ad is charged as it is shown
    expected = np.subtract(clicks, [[0.4, 0.0, 0.0]])
    np.testing.assert_allclose(snips.score_reward(given, Objective(0.5, 0.4)), expected)


def test_logs_can_object_to_a_choice():
  good, close, bad = (snips.Estimate(value, 0.01, 100, 50.0) for value in (0.30, 0.29, 0.1))
  found = snips.cross_checked_choice({"a": (2.0, close), "b": (1.0, good)})
  assert found == dict(best="a", snips_best="b", agrees=True)
  assert snips.cross_checked_choice({"a": (2.0, bad), "b": (1.0, good)})["agrees"] is False
  unknown = snips.Estimate(float("nan"), float("nan"), 0, 0.0)
  assert snips.cross_checked_choice({"a": (2.0, unknown), "b": (1.0, good)})["agrees"] is None
  with pytest.raises(ValueError, match="empty"):
    snips.cross_checked_choice({})


def test_rarely_logged_items_count_as_much_as_common_ones():
  logs, rate = logs_of(6, items=4, noise=0.7)
  common, rare = np.argsort(-np.bincount(logs["shown_item"][:, 0], minlength=4))[[0, 2]]
  rows = np.arange(len(logs["click"])) // 2 % 2  # half of the requests would show each, explored or not
  items = np.stack([np.where(rows, rare, common), np.full(rows.size, -1)], 1)
  found = snips.snips(logs, items, items * 10, logs["click"])
  assert found.value == pytest.approx((rate[common, 0] + rate[rare, 0]) / 2, abs=4 * found.standard_error)
  assert abs(rate[common, 0] - rate[rare, 0]) / 2 > 5 * found.standard_error  # so that weights matter
