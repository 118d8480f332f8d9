"""Visit weights found on windows."""

import numpy as np

import tiny_run
from ega_jax.models.visit_counts import NAMES
from ega_jax.stages import habits


def test_the_weights_are_those_that_rank_best_on_windows(monkeypatch):
  params = tiny_run.trained()[1]["pretrain"]
  wanted = {0: {"own": 3.0, "half_life": 0.3}, 1: {"hour": 0.6, "again": 1.7}}
  columns = {"row": np.arange(4), "hour_known": np.ones(4, bool)}
  read = []
  monkeypatch.setattr(habits.pipeline, "read_next_poi", lambda directory, split: read.append(split) or columns)
  hide = lambda columns: columns | {"hour_known": np.zeros(4, bool)}
  monkeypatch.setattr(habits.windows, "without_target_time", hide)

  def ranks(params, columns):
    known = int(columns["hour_known"].all())
    weights = np.exp(np.asarray(params["generator"]["item_prior"]["visit_weights"]))[known]
    hits = sum(abs(weights[NAMES.index(name)] - value) < 1e-3 for name, value in wanted[known].items())
    return np.array([0] * hits + [99] * (4 - hits))

  monkeypatch.setattr(habits, "counted_ranks", ranks)
  found = habits.tuned(tiny_run.config(), params)
  weights = np.exp(np.asarray(found["generator"]["item_prior"]["visit_weights"]))
  for known, named in wanted.items():
    for i, name in enumerate(NAMES):
      assert abs(weights[known, i] - named.get(name, 1.0)) < 1e-3, name
  assert set(read) == {"train", "validation"}  # never the test


def test_a_city_without_windows_keeps_its_weights():
  params = tiny_run.trained()[1]["pretrain"]
  assert habits.tuned(tiny_run.config(), params) is params


def test_training_leaves_the_weights_alone():
  weights = tiny_run.trained()[1]["pretrain"]["generator"]["item_prior"]["visit_weights"]
  np.testing.assert_array_equal(weights, 0)
