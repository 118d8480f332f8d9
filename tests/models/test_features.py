"""Features equal a loop over the history, see no bid and treat padding as absent."""

import dataclasses

import jax
import numpy as np
import pytest

import oracles_models as oracle
from ega_jax.models import features

compute = jax.jit(features.candidate_features)


@pytest.fixture(scope="module")
def data():
  rng = np.random.default_rng(0)
  catalog = oracle.catalog(rng)
  # Few POIs and long histories, so that repeats and transitions happen.
  request = oracle.request(rng, catalog, events=40)
  history = np.where(request.history_poi >= 0, request.history_poi % 5, -1)
  return dataclasses.replace(request, history_poi=history), catalog


def test_features_equal_a_loop_over_events(data):
  request, catalog = data
  got = np.asarray(compute(request, catalog, request.candidates))
  assert got.shape == (*request.candidates.shape, features.NUM_FEATURES)
  for b, c in np.ndindex(request.candidates.shape):
    if request.candidates[b, c] < 0:
      np.testing.assert_array_equal(got[b, c], 0)
      continue
    want = oracle.features(request, catalog, b, int(request.candidates[b, c]))
    assert tuple(want) == features.NAMES
    np.testing.assert_allclose(got[b, c], list(want.values()), rtol=2e-4, atol=2e-5)
  assert (got.reshape(-1, got.shape[-1]).std(0) > 0).all()


def test_scatter_and_comparison_give_the_same_sums():
  rng = np.random.default_rng(1)
  keys, weights = rng.integers(-1, 9, (3, 6)), rng.normal(size=(3, 6, 2)).astype(np.float32)
  queries = rng.integers(-1, 9, (3, 8))
  scattered = features.sum_where_equal(keys, weights, queries, size=9)
  compared = features.sum_where_equal(keys, weights, queries, size=None)
  np.testing.assert_allclose(scattered, compared, atol=1e-6)
  assert np.abs(compared).sum() > 0


def test_bids_change_nothing(data):
  request, catalog = data
  other = dataclasses.replace(request, bid=request.bid * 7 + 1, value_mu=request.value_mu - 3)
  np.testing.assert_array_equal(
    compute(request, catalog, request.candidates),
    compute(other, catalog, request.candidates),
  )


def test_an_unknown_hour_leans_to_no_hour(data):
  request, catalog = data
  unknown = dataclasses.replace(request, hour=np.full_like(request.hour, -1))
  got = np.asarray(compute(unknown, catalog, request.candidates))
  column = lambda name: got[..., features.NAMES.index(name)]
  for hour, share in {"hour": "visit", "sharp_hour": "visit", "category_hour": "category"}.items():
    np.testing.assert_allclose(column(f"{hour}_share"), column(f"{share}_share"), rtol=1e-4, atol=1e-6)
  counts = np.expm1(column("visits_slow"))
  for name, width in (("hour", 2.0), ("sharp_hour", 0.75)):
    factor = np.expm1(column(name))[counts > 0] / counts[counts > 0]
    np.testing.assert_allclose(factor, width / 9.58 * (1 - 0.6 * 20 / 49), rtol=2e-3)


def test_the_moment_is_that_of_the_last_visit(data):
  request, _ = data
  visit = (request.history_poi >= 0) & (request.history_action == 1)
  gap = np.where(visit, request.history_age, np.inf).min(1)
  np.testing.assert_allclose(features.visit_gap(request), gap, rtol=1e-6)
  assert len(np.unique(gap)) > 2 and np.isinf(gap).any()  # a user without a visit is among them
  known = np.where(np.isfinite(gap), gap, 0)
  for hour, timed in ((30, 1.0), (-1, 0.0)):
    found = np.asarray(features.moment(dataclasses.replace(request, hour=np.full_like(request.hour, hour))))
    expected = np.stack([np.full(len(gap), timed), timed * np.log1p(known) / 3, np.log1p(visit.sum(1)) / 3], 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
