"""Count-based next-POI floors: the score against a loop, ranks with ties, and weights found on planted habits."""

import numpy as np
import pytest

from ega_jax.data.market_config import hour_of_week
from ega_jax.evaluation import next_poi
from ega_jax.systems import next_visits


def _columns(rng, windows=30, pois=12, length=10):
  length_of = rng.integers(1, length + 1, windows)
  present = np.arange(length)[::-1] < length_of[:, None]
  target_time = rng.integers(10**6, 10**7, windows)
  time = target_time[:, None] - rng.integers(0, 10**5, (windows, length))
  successor = np.stack([rng.permutation(pois)[:4] for _ in range(windows)])
  return {
    "row": np.arange(windows),
    "history_poi": np.where(present, rng.integers(0, pois, (windows, length)), -1),
    "history_action": present.astype(np.int32),
    "history_hour": hour_of_week(time),
    "history_age": ((target_time[:, None] - time) / 60).astype(np.float32),
    "target_time": target_time,
    "hour": hour_of_week(target_time),
    "successor_poi": np.where(rng.random((windows, 4)) < 0.8, successor, -1),
    "successor_count": rng.integers(1, 9, (windows, 4)).astype(np.float32),
    "target_poi": rng.integers(0, pois, (windows, 1)),
  }


def _slow_score(columns, window, poi, weights):
  history = columns["history_poi"][window]
  score = 0.0
  now = columns["target_time"][window]
  for back, visited in enumerate(history[::-1]):
    if visited != poi:
      continue
    at = len(history) - 1 - back
    then = now - round(float(columns["history_age"][window][at]) * 60)
    extra = weights.own * (at > 0 and history[at - 1] == history[-1])
    apart = min((then - now) % 1440, (now - then) % 1440) / 60
    weekend = [(moment // 1440 + 3) % 7 >= 5 for moment in (then, now)]  # day 0 was a Thursday
    day = 1.0 if weekend[0] == weekend[1] else weights.other_day
    extra += weights.hour * day * np.exp(-0.5 * (apart / weights.hour_width) ** 2)
    score += 0.5 ** (back / weights.half_life) * (1 + extra)
  counts = columns["successor_count"][window].astype(float)
  return score + weights.markov * sum(counts[columns["successor_poi"][window] == poi]) / sum(counts)


@pytest.mark.parametrize("hour", [0.0, 4.0])
def test_score_is_the_sum_of_its_parts(hour):
  columns = _columns(np.random.default_rng(0))
  weights = next_poi.FloorWeights(half_life=3, own=0.7, markov=0.4, hour=hour, hour_width=1.5, other_day=0.2)
  found = next_poi.score_pois(columns, np.zeros(12), weights)
  expected = [[_slow_score(columns, window, poi, weights) for poi in range(12)] for window in range(30)]
  np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_popularity_breaks_ties_only():
  columns = _columns(np.random.default_rng(1))
  plain = next_poi.score_pois(columns, np.zeros(12), next_poi.FloorWeights())
  popular = next_poi.score_pois(columns, np.arange(12.0), next_poi.FloorWeights())
  apart = plain[:, :, None] - plain[:, None, :]
  ahead = popular[:, :, None] > popular[:, None, :]
  assert ahead[apart > 1e-4].all() and (ahead == (np.arange(12)[:, None] > np.arange(12)))[apart == 0].all()


def test_ranks_count_who_is_above_and_smaller_ids_first():
  scores = np.array([[1.0, 3, 3, 2], [0, 0, 0, 0]])
  assert next_visits.target_ranks(scores, np.array([2, 3])).tolist() == [1, 3]
  assert next_visits.accuracies(np.array([0, 4, 5, 10])) == {"acc@1": 0.25, "acc@5": 0.5, "acc@10": 0.75}


def test_ranks_do_not_depend_on_the_chunk():
  columns = _columns(np.random.default_rng(2))
  ranks = [next_poi.floor_ranks(columns, np.arange(12.0), next_poi.FloorWeights(), chunk) for chunk in (7, 512)]
  np.testing.assert_array_equal(*ranks)


def test_tuning_finds_a_planted_habit_of_the_hour():
  rng = np.random.default_rng(3)
  columns = _columns(rng, windows=200, pois=24, length=20)
  columns["history_action"][:] = 1
  hours_before = rng.integers(1, 24 * 60, (200, 20))
  same_hour = rng.integers(0, 20, 200)
  hours_before[np.arange(200), same_hour] = 24 * rng.integers(1, 60, 200)
  columns["history_age"] = hours_before.astype(np.float32)
  time = columns["target_time"][:, None] - 60 * hours_before
  columns["history_hour"], columns["history_poi"] = hour_of_week(time), (time // 60) % 24  # a POI for every hour
  columns["target_poi"] = columns["history_poi"][np.arange(200), same_hour][:, None]
  accuracy = lambda with_time: next_visits.accuracies(
    next_poi.floor_ranks(columns, np.zeros(24), next_poi.tune(columns, np.zeros(24), with_time=with_time))
  )
  assert accuracy(True)["acc@1"] == 1.0 and accuracy(False)["acc@1"] < 0.4


def test_the_comparison_is_paired_by_window():
  ranks = np.arange(400) % 12
  better = np.maximum(ranks - 1, 0)
  found = next_poi.paired_comparison(better, ranks, np.arange(400), num_resamples=200)
  for k in (1, 5, 10):
    np.testing.assert_allclose(found[f"acc@{k}"].value, np.mean((better < k) & (ranks >= k)))
    assert found[f"acc@{k}"].low > 0
  same = next_poi.paired_comparison(ranks, ranks, np.arange(400), num_resamples=50)["acc@5"]
  assert (same.low, same.value, same.high) == (0, 0, 0)
