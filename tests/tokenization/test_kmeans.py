"""k-means against slow numpy, on data whose clusters are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.tokenization import kmeans


def _points(count, size, seed=0):
  return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def _distances(points, centroids):
  return ((points[:, None].astype(np.float64) - centroids[None]) ** 2).sum(-1)


def _lloyd(points, weights, centroids, iterations):
  """One plain weighted Lloyd iteration after the other, float64, without revival."""
  centroids = centroids.astype(np.float64)
  for _ in range(iterations):
    index = _distances(points, centroids).argmin(1)
    for code in range(len(centroids)):
      member = weights * (index == code)
      if member.sum() > 0:
        centroids[code] = member @ points / member.sum()
  return centroids


@pytest.mark.parametrize("chunk", [7, 40, 4096])
def test_nearest_is_brute_force_at_any_chunk(chunk):
  points, centroids = _points(101, 5), _points(9, 5, seed=1)
  expected = _distances(points, centroids)
  index, distance = kmeans.nearest(points, centroids, chunk=chunk)
  np.testing.assert_array_equal(index, expected.argmin(1))
  np.testing.assert_allclose(distance, expected.min(1), rtol=1e-4, atol=1e-5)


def test_ties_go_to_the_lowest_code():
  index, _ = kmeans.nearest(jnp.zeros((3, 2)), jnp.array([[1.0, 0], [0, 1], [-1, 0]]))
  np.testing.assert_array_equal(index, [0, 0, 0])


@pytest.mark.parametrize("chunk", [16, 4096])
def test_lloyd_is_the_weighted_iteration(chunk):
  points, start = _points(90, 4), _points(5, 4, seed=1) * 0.3
  weights = np.random.default_rng(2).integers(1, 5, 90).astype(np.float32)
  fit = kmeans.lloyd(jax.random.key(0), points, weights, start, iterations=6, tolerance=-1.0, chunk=chunk)
  np.testing.assert_allclose(fit.centroids, _lloyd(points, weights, start, 6), rtol=1e-4, atol=1e-4)
  before = _distances(points, _lloyd(points, weights, start, 5)).min(1)
  np.testing.assert_allclose(fit.inertia, weights @ before, rtol=1e-4)
  assert fit.steps == 6


def test_a_weight_of_zero_drops_the_row():
  points, start = _points(40, 3), _points(4, 3, seed=1) * 0.3
  weights = np.ones(40, np.float32)
  weights[30:] = 0
  options = {"iterations": 5, "tolerance": -1.0}
  masked = kmeans.lloyd(jax.random.key(0), points, weights, start, **options)
  dropped = kmeans.lloyd(jax.random.key(0), points[:30], weights[:30], start, **options)
  np.testing.assert_allclose(masked.centroids, dropped.centroids, rtol=1e-5, atol=1e-6)


def test_far_blobs_are_all_found():
  centres = 100 * np.eye(12, dtype=np.float32)
  points = np.repeat(centres, 20, axis=0) + 0.1 * _points(240, 12)
  fit = kmeans.fit_kmeans(jax.random.key(3), points, np.ones(240, np.float32), 12)
  assert (_distances(centres, np.asarray(fit.centroids)).min(1) < 1).all()
  means = points.reshape(12, 20, 12).mean(1, keepdims=True)
  np.testing.assert_allclose(fit.inertia, ((points.reshape(12, 20, 12) - means) ** 2).sum(), rtol=2e-2)


def test_seeds_are_distinct_rows_and_zero_weight_rows_are_never_seeds():
  points = _points(30, 4)
  weights = np.ones(30, np.float32)
  weights[:15] = 0
  seeds = np.asarray(kmeans.seed_centroids(jax.random.key(0), jnp.asarray(points), jnp.asarray(weights), 15))
  rows = [int(np.flatnonzero((points == seed).all(1))[0]) for seed in seeds]
  assert sorted(rows) == list(range(15, 30))


def test_a_dead_code_is_revived():
  points = np.concatenate([_points(50, 3), _points(50, 3) + 20])
  start = np.array([[0, 0, 0], [900, 900, 900]], np.float32)
  fit = kmeans.lloyd(jax.random.key(0), points, np.ones(100, np.float32), start)
  index, _ = kmeans.nearest(points, fit.centroids)
  np.testing.assert_array_equal(np.bincount(index, minlength=2), [50, 50])


def test_fewer_distinct_rows_than_codes_are_represented_exactly():
  points = np.array([[1, 2], [3, 4], [5, 9]], np.float32)
  fit = kmeans.fit_kmeans(jax.random.key(0), points, np.ones(3, np.float32), 3)
  assert sorted(map(tuple, np.asarray(fit.centroids).tolist())) == [(1, 2), (3, 4), (5, 9)]
  same = kmeans.fit_kmeans(jax.random.key(0), np.ones((6, 2), np.float32), np.ones(6, np.float32), 4)
  np.testing.assert_array_equal(same.centroids, np.ones((4, 2)))


def test_one_code_is_the_mean():
  points = _points(20, 3)
  fit = kmeans.fit_kmeans(jax.random.key(0), points, np.ones(20, np.float32), 1)
  np.testing.assert_allclose(fit.centroids[0], points.mean(0), rtol=1e-5, atol=1e-6)
