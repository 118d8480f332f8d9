"""The share of what was learned that the next-visit prompt follows."""

import jax
import numpy as np
import pytest

import tiny_run
from ega_jax.models.ega_config import LIST, NEXT_VISITS
from ega_jax.stages import trust


def _params():
  params = tiny_run.trained()[1]["pretrain"]
  noise = lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape)
  generator = dict(params["generator"], poi_head=noise(params["generator"]["poi_head"]))
  generator["item_prior"] = dict(generator["item_prior"], heads=jax.tree.map(noise, generator["item_prior"]["heads"]))
  return {**params, "generator": generator}


def test_only_what_the_next_visits_add_to_the_counts_is_scaled():
  params = _params()
  found = trust.scaled(params, 0.25)
  for part in ("kernel", "bias"):
    was, now = (tree["generator"]["item_prior"]["heads"][part] for tree in (params, found))
    np.testing.assert_allclose(now[..., NEXT_VISITS], 0.25 * was[..., NEXT_VISITS], rtol=1e-6)
    np.testing.assert_array_equal(now[..., LIST], was[..., LIST])
  was, now = params["generator"]["poi_head"], found["generator"]["poi_head"]
  np.testing.assert_allclose(now[NEXT_VISITS], 0.25 * was[NEXT_VISITS], rtol=1e-6)
  np.testing.assert_array_equal(now[LIST], was[LIST])
  same = lambda tree: {**tree, "generator": {**tree["generator"], "poi_head": 0, "item_prior": 0}}
  jax.tree.map(np.testing.assert_array_equal, same(params), same(found))


@pytest.mark.parametrize("best", trust.SHARES)
def test_the_share_is_the_one_that_ranks_best_on_validation_windows(monkeypatch, best):
  params, seen = _params(), []
  kernel = lambda tree: float(np.abs(tree["generator"]["poi_head"][NEXT_VISITS]).sum())
  whole = kernel(params)

  def ranks(models, tried, columns):
    seen.append(bool(columns["hour_known"].all()))
    return np.full(4, 0 if abs(kernel(tried) / whole - best) < 0.01 else 7)

  columns = {"row": np.arange(4), "hour_known": np.ones(4, bool)}
  monkeypatch.setattr(trust.pipeline, "read_next_poi", lambda directory, split: columns if split == "validation" else 1)
  hide = lambda columns: columns | {"hour_known": np.zeros(4, bool)}
  monkeypatch.setattr(trust.windows, "without_target_time", hide)
  monkeypatch.setattr(trust, "generated_ranks", ranks)
  found, share = trust.trusted(tiny_run.config(), tiny_run.models(), params)
  assert share == best and kernel(found) == pytest.approx(best * whole, rel=1e-4)
  assert sum(seen) == len(seen) / 2 == len(trust.SHARES)


def test_a_city_without_windows_keeps_all():
  params = _params()
  found, share = trust.trusted(tiny_run.config(), tiny_run.models(), params)
  assert share == 1.0 and found is params
