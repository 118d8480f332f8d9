"""No leakage: a request's columns are blind to what happens at or after it, and batches are blind to the truth."""

import ast
import dataclasses
import pathlib

import numpy as np
import pytest

import oracles_checkins as oracle
from ega_jax.data import checkins, examples, history, marketplace, successors, windows
from ega_jax.data.observed import Observations

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEED = 11


@pytest.fixture(scope="module")
def market():
  return marketplace.generate(marketplace.TINY, SEED)


def _future_rewritten(market, row, rng):
  """Returns the marketplace with every event at or after request `row` changed: visits, clicks, others' bids."""
  now = market.requests["time"][row]
  visits, later = market.behaviour, market.behaviour.time >= now
  poi = np.where(later, (visits.poi + 1 + rng.integers(visits.num_pois - 1)) % visits.num_pois, visits.poi)
  time = visits.time + np.where(later, rng.integers(0, 3000, len(later)), 0)
  order = np.argsort(time, kind="stable")
  behaviour = dataclasses.replace(visits, user=visits.user[order], poi=poi[order].astype(np.int32), time=time[order])
  after = market.requests["time"] >= now
  flip = lambda x: np.where(after[:, None], 1 - x, x).astype(x.dtype)
  logs = market.logs | {name: flip(market.logs[name]) for name in ("click", "creative_click", "conversion")}
  logs["shown_payment"] = np.where(after[:, None], 7, market.logs["shown_payment"]).astype(np.float32)
  logs["shown_item"] = np.where(after[:, None], market.logs["shown_item"][:, ::-1], market.logs["shown_item"])
  others = after & (np.arange(len(after)) != row)
  bid = np.where(others[:, None], 3 * market.requests["bid"], market.requests["bid"])
  return dataclasses.replace(market, behaviour=behaviour, logs=logs, requests=market.requests | {"bid": bid})


def _check_time_travel(build, market, rows, seed=0):
  """Asserts that the request columns of `rows` survive a rewritten future; returns the share of changed targets."""
  rng = np.random.default_rng(seed)
  before, changed = build(market), 0
  for row in rows:
    after = build(_future_rewritten(market, row, rng))
    for name in examples.REQUEST_COLUMNS:
      assert after[name][row].tobytes() == before[name][row].tobytes(), f"{name} of request {row} knows its future"
    changed += (after["target_poi"][row] != before["target_poi"][row]).any()
  return changed / len(rows)


def _build(market):
  return examples.build_columns(market, SEED)


def test_time_travel_leaves_requests_byte_identical(market):
  rows = np.random.default_rng(1).permutation(len(market.requests["row"]))[:200]
  assert _check_time_travel(_build, market, rows) > 0.9  # the rewriting is real: it changes what is to be predicted


def _with_late_history(market):
  late = history.history_columns(
    history.visits_and_clicks(market.behaviour, market.requests, market.logs),
    market.requests["user"],
    market.requests["time"] + marketplace.LEAD_MINUTES + 1,
    examples.HISTORY,
  )
  return _build(market) | late


def _with_all_transitions(market):
  visits = history.visit_events(market.behaviour)
  poi = _build(market)["successor_poi"][:, 0]
  return _build(market) | successors.successor_columns(
    successors.transitions_of(visits), poi, np.full(len(poi), 2**40), examples.SUCCESSORS
  )


def _with_click_counts(market):
  poi = np.take_along_axis(market.requests["candidates"], market.logs["shown_item"], 1)
  clicks = np.bincount(poi.ravel(), market.logs["click"].ravel(), minlength=market.behaviour.num_pois)
  return _build(market) | {"value_mu": clicks[market.requests["candidates"]].astype(np.float32)}


def _with_own_click(market):
  columns = _build(market)
  return columns | {"hour": columns["hour"] + market.logs["click"][:, 0]}


@pytest.mark.parametrize("leaky", [_with_late_history, _with_all_transitions, _with_click_counts, _with_own_click])
def test_a_leaked_column_is_caught(market, leaky):
  with pytest.raises(AssertionError, match="knows its future"):
    _check_time_travel(leaky, market, np.arange(100, 1100, 50))


def test_targeting_features_are_blind_to_the_future(market):
  rng = np.random.default_rng(2)
  catalog = market.catalog
  leaves = int(catalog.poi_category.max()) + 1

  def features(of, row):
    context = [of.requests[name][row : row + 1] for name in ("user", "time", "place", "hour")]
    return Observations(of.behaviour, catalog.poi_place, catalog.poi_category, leaves).features(*context)

  for row in rng.permutation(len(market.requests["row"]))[:40]:
    before, after = features(market, row), features(_future_rewritten(market, row, rng), row)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_batches_are_blind_to_the_truth(market):
  rng = np.random.default_rng(3)
  arrays = {f.name: getattr(market.world, f.name) for f in dataclasses.fields(market.world)}
  scrambled = {name: rng.permutation(x) for name, x in arrays.items() if isinstance(x, np.ndarray) and len(x) > 1}
  world = dataclasses.replace(market.world, **scrambled, noise_seed=market.world.noise_seed + 1)
  columns, blind = _build(market), _build(dataclasses.replace(market, world=world))
  rows = np.flatnonzero((world.candidates >= 0).all(1) & (market.world.candidates >= 0).all(1))[:50]
  shown = rows, market.logs["shown_item"][rows], market.logs["shown_creative"][rows]
  assert np.abs(world.click_probabilities(*shown)[0] - market.world.click_probabilities(*shown)[0]).mean() > 0.005
  assert all(columns[name].tobytes() == blind[name].tobytes() for name in columns)
  without = _build(dataclasses.replace(market, world=None))
  assert all(columns[name].tobytes() == without[name].tobytes() for name in columns)


def test_the_catalogue_counts_visits_before_the_cut(market):
  visits = market.behaviour.poi[market.behaviour.time < market.cut_time]
  expected = np.log1p(np.bincount(visits, minlength=market.behaviour.num_pois))
  np.testing.assert_allclose(market.catalog.poi_popularity, expected, rtol=1e-6)


@pytest.fixture(scope="module")
def city(tmp_path_factory):
  directory = tmp_path_factory.mktemp("city")
  oracle.write_city(directory)
  return str(directory)


def test_the_catalogue_and_windows_of_a_city_are_blind_to_what_follows_the_cut(city):
  read = checkins.read_checkins(city)
  cut = windows.cut_time_of(city, read)
  later = read.time >= cut
  other = dataclasses.replace(read, poi=np.where(later, (read.poi + 7) % read.num_pois, read.poi).astype(np.int32))
  assert 0.1 < later.mean() < 0.9
  config = dataclasses.replace(marketplace.TINY, num_parents=3)
  catalogs = [marketplace.over_checkins(x, config, SEED, cut).catalog for x in (read, other)]
  for field in dataclasses.fields(catalogs[0]):
    one, two = (getattr(catalog, field.name) for catalog in catalogs)
    assert one.tobytes() == two.tobytes(), field.name
  found = windows.read_windows(city, "test", read)
  before, after = (windows.window_columns(found, x, cut) for x in (read, other))
  assert all(before[name].tobytes() == after[name].tobytes() for name in before)
  assert (before["successor_count"] > 0).any()


TRUTH = ("ega_jax.data.world", "ega_jax.data.latents")
GENERATORS = ("ega_jax.data.marketplace", "ega_jax.data.sanity", "ega_jax.data.behaviour")
MAY_KNOW_THE_TRUTH = ("ega_jax/data/", "ega_jax/evaluation/")
MAY_GENERATE = MAY_KNOW_THE_TRUTH + ("launch/", "experiments/")


def _imported(source, package):
  """Returns the dotted names that a module of `package` imports, `from a import b` as a, a.b."""
  names = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
      module = ".".join(parts + ([node.module] if node.module else []))
      names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("ega_jax.data."):
      names.add(node.value)  # importlib.import_module("...")
  return names


def _forbidden(path, source):
  """Returns the imports that a file at `path` must not have."""
  names = _imported(source, ".".join(path.split("/")[:-1]))
  bad = set()
  if not path.startswith(MAY_KNOW_THE_TRUTH):
    bad |= {name for name in names if name.startswith(TRUTH) or name == "ega_jax.data.marketplace.World"}
  if not path.startswith(MAY_GENERATE):
    bad |= {name for name in names if name.startswith(GENERATORS)}
  return bad


def test_only_data_and_evaluation_import_the_truth():
  paths = [path for folder in ("ega_jax", "experiments", "launch") for path in sorted((ROOT / folder).rglob("*.py"))]
  assert len(paths) > 30
  bad = {str(path.relative_to(ROOT)): _forbidden(str(path.relative_to(ROOT)), path.read_text()) for path in paths}
  assert not {path: names for path, names in bad.items() if names}


@pytest.mark.parametrize(
  ("path", "source"),
  [
    ("ega_jax/models/reward.py", "import ega_jax.data.world"),
    ("ega_jax/models/reward.py", "def f():\n  from ega_jax.data.world import World"),
    ("ega_jax/training/loop.py", "from ega_jax.data import world as truth"),
    ("ega_jax/models/reward.py", "from ..data import world"),
    ("launch/train.py", "from ega_jax.data.marketplace import World"),
    ("experiments/x/config.py", "import importlib\nimportlib.import_module('ega_jax.data.world')"),
    ("ega_jax/losses/reward.py", "from ega_jax.data import marketplace"),
  ],
)
def test_an_import_of_the_truth_is_caught(path, source):
  assert _forbidden(path, source)
  assert not _forbidden("ega_jax/evaluation/audit.py", source)
