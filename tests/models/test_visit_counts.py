"""The weighted count of own visits, by a loop over the history."""

import dataclasses

import jax
import numpy as np
import pytest

import oracles_models as oracle
from ega_jax.models import encoder, visit_counts
from ega_jax.types import VISIT


@pytest.fixture(scope="module")
def data():
  rng = np.random.default_rng(0)
  catalog = oracle.catalog(rng)
  request = oracle.request(rng, catalog, batch=8, events=40)
  history = np.where(request.history_poi >= 0, request.history_poi % 5, -1)
  age = np.sort(rng.exponential(30.0, request.history_age.shape), axis=1)[:, ::-1].astype(np.float32)
  age[:, -1] = rng.uniform(0, 3, len(age))  # some have just been somewhere
  return dataclasses.replace(request, history_poi=history, history_age=age), catalog


def _near(gap, hour, other_hour, width, other_day):
  apart = abs(gap) % 24
  apart = min(apart, 24 - apart)
  return np.exp(-0.5 * (apart / width) ** 2) * (1.0 if (hour // 24 >= 5) == (other_hour // 24 >= 5) else other_day)


def _slow_count(request, catalog, b, poi, weights):
  known = request.hour[b] >= 0
  w = dict(zip(visit_counts.NAMES, weights[int(known)], strict=True))
  visits = [  # (POI, age, hour), oldest first
    (request.history_poi[b, i], float(request.history_age[b, i]), request.history_hour[b, i])
    for i in range(request.history_poi.shape[1])
    if request.history_poi[b, i] >= 0 and request.history_action[b, i] == VISIT
  ]
  total = 0.0
  for i, (where, age, hour) in enumerate(visits):
    if where != poi:
      continue
    extra = near = follows = 0.0
    if i > 0 and visits[i - 1][0] == visits[-1][0]:
      follows = 1.0
      before, last = visits[i - 1], visits[-1]
      kernel = visit_counts.CONTEXT_WIDTH, visit_counts.CONTEXT_OTHER_DAY
      similar = _near(before[1] - last[1], before[2], last[2], *kernel)
      extra = w["own"] * (1 + w["context"] * similar)
    if known:
      near = _near(age, hour, request.hour[b], w["hour_width"], w["other_day"])
      extra += near * (w["hour"] + w["own_hour"] * follows)
    total += 0.5 ** ((len(visits) - 1 - i) / w["half_life"]) * (1 + extra)
  if visits and visits[-1][0] == poi and known:
    total *= 1 - (1 - w["again"]) * np.exp(-((visits[-1][1] / w["again_hours"]) ** 2))
  count = np.where(request.successor_poi[b] >= 0, request.successor_count[b], 0.0)
  total += w["markov"] * count[request.successor_poi[b] == poi].sum() / max(count.sum(), 1.0)
  return total + visit_counts.UNSEEN * np.exp(catalog.poi_popularity[poi])


@pytest.mark.parametrize("hidden", [False, True])
def test_the_count_is_a_loop_over_own_visits(data, hidden):
  request, catalog = data
  if hidden:
    request = jax.tree.map(np.asarray, encoder.hide_time(request, np.ones(len(request.user), bool)))
  offsets = np.random.default_rng(1).normal(0, 0.5, (2, len(visit_counts.NAMES))).astype(np.float32)
  weights = np.asarray(visit_counts.weights_of(offsets), np.float64)
  every = np.broadcast_to(np.arange(30), (len(request.user), 30))
  found = np.asarray(jax.jit(visit_counts.visit_counts)(request, catalog, every, offsets))
  few = np.asarray(visit_counts.visit_counts(request, catalog, every[:, :3], offsets))
  expected = [[_slow_count(request, catalog, b, poi, weights) for poi in range(30)] for b in range(len(found))]
  np.testing.assert_allclose(found, expected, rtol=2e-4)
  np.testing.assert_allclose(few, found[:, :3], rtol=1e-5)


def test_every_weight_matters(data):
  request, catalog = data
  every = np.broadcast_to(np.arange(30), (len(request.user), 30))
  count = lambda offsets: np.asarray(visit_counts.visit_counts(request, catalog, every, offsets))
  zeros = np.zeros((2, len(visit_counts.NAMES)), np.float32)
  for name in visit_counts.NAMES:
    changed = zeros.copy()
    changed[1, visit_counts.NAMES.index(name)] = 1.0
    assert np.abs(count(changed) / count(zeros) - 1).max() > 1e-3, name
  changed = zeros.copy()
  changed[0] = 1.0
  known = request.hour >= 0
  np.testing.assert_array_equal(count(changed)[known], count(zeros)[known])  # row 0 is of unknown times


def test_just_after_a_visit_the_same_place_counts_less(data):
  request, catalog = data
  every = np.broadcast_to(np.arange(30), (len(request.user), 30))
  zeros = np.zeros((2, len(visit_counts.NAMES)), np.float32)
  later = dataclasses.replace(request, history_age=request.history_age + 24.0)  # the same time of day
  now, then = (np.asarray(visit_counts.visit_counts(r, catalog, every, zeros)) for r in (request, later))
  last = request.history_poi[:, -1]
  visited = (last >= 0) & (request.history_action[:, -1] == VISIT) & (request.hour >= 0)
  rows = np.flatnonzero(visited & (request.history_age[:, -1] < 1))
  assert len(rows) and (now[rows, last[rows]] < 0.6 * then[rows, last[rows]]).all()
