"""Columns of examples against slow references."""

import types

import numpy as np
import pytest

import oracles_checkins as oracle
from ega_jax.data import examples, history, marketplace, successors


@pytest.fixture(scope="module")
def market():
  return marketplace.generate(marketplace.TINY, 3)


@pytest.fixture(scope="module")
def columns(market):
  return examples.build_columns(market, 3)


def _random_visits(seed, visits=300, users=5, pois=7, span=200):
  """Visits with many equal times, sorted by time."""
  rng = np.random.default_rng(seed)
  draw = lambda high: rng.integers(0, high, visits)
  return types.SimpleNamespace(user=draw(users), poi=draw(pois), time=np.sort(draw(span)))


def test_columns_are_exactly_the_allow_list(columns):
  assert tuple(columns) == examples.OBSERVED_COLUMNS
  assert {len(values) for values in columns.values()} == {1200}
  kinds = {name: values.dtype.name for name, values in columns.items()}
  floats = {"place", "history_age", "successor_count", "bid", "value_mu", "shown_propensity", "shown_payment"}
  assert {name for name, kind in kinds.items() if kind == "float32"} == floats
  assert {name for name, kind in kinds.items() if kind == "bool"} == {"is_ad", "explored"}
  assert {name for name, kind in kinds.items() if kind == "int8"} == {"click", "creative_click", "conversion"}
  assert columns["history_poi"].shape == (1200, 64) and columns["target_poi"].shape == (1200, 6)


def test_history_merges_visits_and_clicks_of_earlier_requests(market, columns):
  behaviour, requests, logs = market.behaviour, market.requests, market.logs
  events = [
    (user, time, 1, i, poi, -1)
    for i, (user, time, poi) in enumerate(zip(behaviour.user, behaviour.time, behaviour.poi, strict=True))
  ]
  for row, position in np.argwhere(logs["click"]):
    poi = requests["candidates"][row, logs["shown_item"][row, position]]
    creative = logs["shown_creative"][row, position] if logs["creative_click"][row, position] else -1
    action = 3 if logs["conversion"][row, position] else 2
    events.append((requests["user"][row], requests["time"][row], action, len(events), poi, creative))
  for row in np.random.default_rng(0).integers(0, 1200, 60):
    expected = oracle.history(events, requests["user"][row], requests["time"][row], 64)
    length = len(expected)
    names = ("history_poi", "history_creative", "history_action", "history_age")
    found = list(zip(*(columns[name][row, 64 - length :].tolist() for name in names), strict=True))
    np.testing.assert_allclose(np.array(found).reshape(-1, 4), np.array(expected).reshape(-1, 4), rtol=1e-6)
    paddings = {"history_poi": -1, "history_creative": -1, "history_action": 0, "history_hour": 0, "history_age": 0}
    assert all((columns[name][row, : 64 - length] == value).all() for name, value in paddings.items())
  assert (columns["history_action"] == 3).any() and (columns["history_creative"] >= 0).any()


def test_events_at_the_moment_itself_are_not_history():
  visits = types.SimpleNamespace(user=np.array([0, 0, 0]), poi=np.array([4, 5, 6]), time=np.array([10, 20, 20]))
  events = history.visit_events(visits)
  at = lambda time: history.history_columns(events, np.array([0]), np.array([time]), 3)["history_poi"][0].tolist()
  assert [at(10), at(11), at(20), at(21)] == [[-1, -1, -1], [-1, -1, 4], [-1, -1, 4], [4, 5, 6]]


def test_a_user_without_events_has_an_empty_history():
  none = np.zeros(0, int)
  events = history.visit_events(types.SimpleNamespace(user=none, poi=none, time=none))
  columns = history.history_columns(events, np.array([2]), np.array([5]), 4)
  assert columns["history_poi"].tolist() == [[-1] * 4] and columns["history_age"].tolist() == [[0.0] * 4]
  assert history.last_visit(events, np.array([2]), np.array([5])).tolist() == [-1]
  found = successors.successor_columns(successors.transitions_of(events), np.array([-1, 3]), np.array([5, 5]), 2)
  assert found["successor_poi"].tolist() == [[-1, -1]] * 2


@pytest.mark.parametrize("cells", [8, 1 << 21])
def test_successors_are_counted_before_the_moment(monkeypatch, cells):
  monkeypatch.setattr(successors, "_CELLS", cells)
  visits = _random_visits(0)
  transitions = successors.transitions_of(history.visit_events(visits))
  rng = np.random.default_rng(1)
  poi, time = rng.integers(-1, 8, 150), rng.integers(-5, 210, 150)
  found = successors.successor_columns(transitions, poi, time, 5)
  record = list(zip(visits.user.tolist(), visits.time.tolist(), visits.poi.tolist(), strict=True))
  for i in range(150):
    expected = oracle.successors(record, poi[i], time[i], 5) if poi[i] >= 0 else []
    expected += [(-1, 0)] * (5 - len(expected))
    rows = found["successor_poi"][i].tolist(), found["successor_count"][i].tolist()
    assert list(zip(*rows, strict=True)) == expected


def test_targets_are_the_next_visits_and_of_training_those_before_the_cut(market, columns):
  behaviour, requests = market.behaviour, market.requests
  withheld = 0
  for row in range(1200):
    user, time = requests["user"][row], requests["time"][row]
    coming = (behaviour.user == user) & (behaviour.time >= time)
    visible = coming & (behaviour.time < market.cut_time) if time < market.cut_time else coming
    withheld += coming.sum() != visible.sum()
    expected = behaviour.poi[visible][:6].tolist()
    assert columns["target_poi"][row].tolist() == expected + [-1] * (6 - len(expected))
  assert withheld > 100


def test_the_first_target_is_the_visit_that_the_request_preceded(market, columns):
  visits = zip(market.behaviour.user, market.behaviour.time, market.behaviour.poi, strict=True)
  visited = {(user, time): poi for user, time, poi in visits}
  asked = zip(market.requests["user"], market.requests["time"] + marketplace.LEAD_MINUTES, strict=True)
  pairs = [
    (visited[moment], target)
    for moment, target in zip(asked, columns["target_poi"][:, 0], strict=True)
    if moment in visited and moment[1] < market.cut_time
  ]
  assert len(pairs) > 700
  assert np.mean([poi == target for poi, target in pairs]) > 0.99  # others: two visits within the lead


def test_a_target_at_the_cut_itself_is_withheld():
  visits = types.SimpleNamespace(user=np.zeros(4, int), poi=np.arange(4), time=np.array([10, 20, 30, 40]))
  events = history.visit_events(visits)
  before = lambda cut: history.next_pois(events, np.array([0]), np.array([20]), 3, np.array([cut]))[0].tolist()
  assert [before(20), before(21), before(40), before(41)] == [[-1] * 3, [1, -1, -1], [1, 2, -1], [1, 2, 3]]


def test_splits_are_by_time():
  time = np.array([1, 3, 5, 5, 6, 7, 8, 9, 9, 9])
  assert examples.split_bounds(time, 5) == {"train": (0, 2), "validation": (2, 5), "test": (5, 10)}
  with pytest.raises(ValueError, match="sorted"):
    examples.split_bounds(time[::-1], 5)


def test_folds_are_even_independent_of_seed_and_position():
  rows = np.arange(50_000)
  one, other = examples.fold_of(rows, 0), examples.fold_of(rows, 1)
  np.testing.assert_array_equal(one[123:456], examples.fold_of(rows[123:456], 0))
  expected = 50_000 / 10
  assert np.abs(np.bincount(one, minlength=10) - expected).max() < 5 * expected**0.5
  joint = np.bincount(10 * one + other, minlength=100)
  assert np.abs(joint - 500).max() < 5 * 500**0.5
  neighbours = np.bincount(10 * one[:-1] + one[1:], minlength=100)
  assert np.abs(neighbours - 500).max() < 5 * 500**0.5
