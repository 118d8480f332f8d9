"""Metrics against values worked out by hand and against pair loops."""

import itertools

import numpy as np
import pytest

from ega_jax.tokenization import metrics

CODES = np.array([[0, 0], [0, 0], [0, 1], [2, 1], [2, 1], [2, 1]])


def test_collision_usage_and_entropy_by_hand():
  assert metrics.collision_rate(CODES) == pytest.approx(5 / 6)
  np.testing.assert_allclose(metrics.code_usage(CODES, 4), [2 / 4, 2 / 4])
  third = -(1 / 3) * np.log2(1 / 3) - (2 / 3) * np.log2(2 / 3)
  np.testing.assert_allclose(metrics.code_entropy(CODES, 4), [1.0, third])


def test_entropy_of_even_use_is_log2_of_the_codes():
  np.testing.assert_allclose(metrics.code_entropy(np.arange(8)[:, None], 8), [3.0])


def test_path_similarity_is_the_mean_over_paths_of_the_mean_cosine_of_pairs():
  embeddings = np.random.default_rng(0).normal(size=(6, 3))
  cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)
  buckets = [embeddings[:2], embeddings[3:]]
  expected = np.mean([np.mean([cosine(a, b) for a, b in itertools.combinations(x, 2)]) for x in buckets])
  assert metrics.path_similarity(embeddings, CODES) == pytest.approx(expected)


def test_path_similarity_without_shared_paths_is_none():
  assert metrics.path_similarity(np.eye(3), np.arange(3)[:, None]) is None


def test_reconstruction_error_is_the_share_of_variance():
  embeddings = np.random.default_rng(0).normal(size=(20, 3))
  assert metrics.reconstruction_error(embeddings, embeddings) == 0
  assert metrics.reconstruction_error(embeddings, embeddings.mean(0)) == pytest.approx(1)


def test_report_holds_every_metric():
  embeddings = np.random.default_rng(0).normal(size=(6, 3))
  report = metrics.tokenization_metrics(embeddings, CODES, 4, embeddings)
  assert report["items"] == 6 and report["paths"] == 3 and report["largest_bucket"] == 3
  assert report["collision_rate"] == pytest.approx(5 / 6) and report["reconstruction_error"] == 0
