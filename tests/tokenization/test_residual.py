"""Residual k-means: exact on additive data, indifferent to order, offset and scale, stable for duplicates."""

import numpy as np
import pytest

from ega_jax.tokenization import residual


def _embeddings(count=120, size=8, seed=0):
  return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def _additive():
  """64 embeddings, each a sum of one of 4 large, one of 4 medium and one of 4 small vectors."""
  levels = [scale * np.eye(12, dtype=np.float32)[4 * i : 4 * i + 4] for i, scale in enumerate([100, 10, 1])]
  return (levels[0][:, None, None] + levels[1][:, None] + levels[2]).reshape(64, 12)


def _encode(embeddings, codebooks):
  """Greedy residual coding, one item at a time, float64."""
  codes = []
  for left in embeddings.astype(np.float64):
    path = []
    for codebook in codebooks:
      path.append(int(((left - codebook) ** 2).sum(1).argmin()))
      left = left - codebook[path[-1]]
    codes.append(path)
  return np.array(codes)


def test_additive_data_is_coded_exactly():
  embeddings = _additive()
  codebooks = residual.fit_residual_kmeans(embeddings, 3, 4, seed=1)
  codes = residual.encode(embeddings, codebooks)
  assert len(np.unique(codes, axis=0)) == 64
  np.testing.assert_allclose(residual.reconstruct(codes, codebooks), embeddings, atol=1e-3)


def test_encode_is_greedy_residual_coding():
  embeddings = _embeddings()
  codebooks = residual.fit_residual_kmeans(embeddings, 3, 8)
  np.testing.assert_array_equal(residual.encode(embeddings, codebooks, chunk=17), _encode(embeddings, codebooks))


def test_every_level_lowers_the_error():
  embeddings = _embeddings()
  codebooks = residual.fit_residual_kmeans(embeddings, 4, 8)
  codes = residual.encode(embeddings, codebooks)
  errors = [((embeddings - residual.reconstruct(codes[:, :l], codebooks[:l])) ** 2).sum() for l in range(1, 5)]
  assert all(later < 0.8 * earlier for earlier, later in zip(errors, errors[1:], strict=False))


def test_permuted_items_have_permuted_codes():
  embeddings = _embeddings()
  order = np.random.default_rng(1).permutation(len(embeddings))
  codes = [residual.encode(x, residual.fit_residual_kmeans(x, 2, 8)) for x in (embeddings, embeddings[order])]
  np.testing.assert_array_equal(codes[0][order], codes[1])


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_units_change_nothing(scale):
  plain = _embeddings()
  codes = [residual.encode(x, residual.fit_residual_kmeans(x, 2, 8)) for x in (plain, plain * np.float32(scale))]
  assert (codes[0] == codes[1]).all(axis=1).mean() > 0.95  # rounding may move an item between two equally near codes


def test_a_large_common_offset_does_not_cancel():
  """At an offset of 10,000 a float32 square is known to +-8, the clusters are 0.1 apart."""
  embeddings = _additive() / 100 + np.float32(10_000)
  codebooks = residual.fit_residual_kmeans(embeddings, 2, 4, seed=1)
  codes = residual.encode(embeddings, codebooks)
  assert len(np.unique(codes, axis=0)) == 16
  np.testing.assert_allclose(residual.reconstruct(codes, codebooks), embeddings, atol=0.03)


def test_identical_embeddings_share_a_path_wherever_they_stand():
  distinct = _embeddings(37, 5)
  items = np.random.default_rng(0).integers(0, 37, 400)
  codebooks = residual.fit_residual_kmeans(distinct[items], 3, 16)
  codes = residual.encode(distinct[items], codebooks, chunk=33)
  assert len(np.unique(codes, axis=0)) <= 37
  for item in range(37):
    assert len(np.unique(codes[items == item], axis=0)) <= 1


def test_duplicates_of_few_rows_leave_no_invented_codes():
  """Five distinct rows and 16 codes: level 1 is exact, so that level 2 has nothing but zeros to code."""
  embeddings = np.repeat(_embeddings(5, 6), [3, 7, 10, 11, 13], axis=0)
  codebooks = residual.fit_residual_kmeans(embeddings, 2, 16)
  codes = residual.encode(embeddings, codebooks)
  assert len(np.unique(codes[:, 0])) == 5 and len(np.unique(codes[:, 1])) == 1
  np.testing.assert_allclose(residual.reconstruct(codes, codebooks), embeddings, atol=1e-5)


def test_same_seed_same_codebooks_other_seed_other_codebooks():
  first, second, other = (residual.fit_residual_kmeans(_embeddings(), 2, 8, seed=s) for s in (0, 0, 1))
  np.testing.assert_array_equal(first, second)
  assert np.abs(first - other).max() > 1e-3


def test_a_sample_is_enough_and_bounds_the_work():
  embeddings = np.repeat(10 * np.eye(4, dtype=np.float32), 200, axis=0) + 0.01 * _embeddings(800, 4)
  codebooks = residual.fit_residual_kmeans(embeddings, 1, 4, rows_per_code=20)
  codes = residual.encode(embeddings, codebooks)
  np.testing.assert_array_equal(np.sort(np.bincount(codes[:, 0])), [200] * 4)


@pytest.mark.parametrize(
  "embeddings,levels,size,message",
  [
    (np.zeros(3), 1, 1, r"embeddings: shape \(3,\)"),
    (np.zeros((0, 3)), 1, 1, r"shape \(0, 3\)"),
    (np.array([["a"]]), 1, 1, "dtype"),
    (np.array([[1.0], [np.nan], [np.inf]]), 1, 1, r"2 rows hold NaN or infinite values \(first: \[1, 2\]\)"),
    (np.zeros((3, 2)), 0, 1, "levels: 0"),
    (np.zeros((3, 2)), 1, 4, "codebook_size: 4 is not allowed, expected 1..3"),
    (np.zeros((3, 2)), 1, 0, "codebook_size: 0"),
  ],
)
def test_bad_input_is_named(embeddings, levels, size, message):
  with pytest.raises(ValueError, match=message):
    residual.fit_residual_kmeans(embeddings, levels, size)


def test_codebooks_of_another_width_are_refused():
  with pytest.raises(ValueError, match=r"codebooks: shape \(1, 4, 3\)"):
    residual.encode(np.zeros((2, 5)), np.zeros((1, 4, 3)))
