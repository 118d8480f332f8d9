"""Suffix, buckets and the inverted index against dictionaries."""

import collections

import numpy as np
import pytest

from ega_jax.tokenization.semantic_ids import InvertedIndex, add_suffix, resolve_collisions


def _codes(count=200, seed=0):
  return np.random.default_rng(seed).integers(0, 4, (count, 3)).astype(np.int32)


def test_suffix_counts_earlier_items_of_the_bucket():
  codes, seen = _codes(), collections.Counter()
  ids = add_suffix(codes, 64)
  for path, item in zip(map(tuple, codes), ids, strict=True):
    assert tuple(item) == (*path, seen[path])
    seen[path] += 1
  assert len(np.unique(ids, axis=0)) == len(codes)
  assert ids.dtype == np.int32


def test_appending_items_keeps_the_ids_of_the_earlier_ones():
  codes = _codes()
  np.testing.assert_array_equal(add_suffix(codes, 64)[:50], add_suffix(codes[:50], 64))


def test_too_large_a_bucket_is_named_with_its_size():
  codes = np.array([[1, 2], [3, 4], [3, 4], [3, 4]])
  with pytest.raises(ValueError, match=r"bucket \[3, 4\] holds 3 items but the suffix vocabulary has 2"):
    add_suffix(codes, 2)
  np.testing.assert_array_equal(add_suffix(codes, 3)[:, 2], [0, 0, 1, 2])


def test_collision_choices():
  codes = _codes()
  np.testing.assert_array_equal(resolve_collisions(codes, collision="bucket"), codes)
  np.testing.assert_array_equal(resolve_collisions(codes), add_suffix(codes, 200))
  with pytest.raises(ValueError, match="collision: 'other' is not allowed, expected 'suffix' or 'bucket'"):
    resolve_collisions(codes, collision="other")


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_every_prefix_finds_exactly_its_items(length):
  codes = _codes()
  index, expected = InvertedIndex.from_codes(codes), collections.defaultdict(set)
  for item, path in enumerate(map(tuple, codes)):
    expected[path[:length]].add(item)
  for prefix, items in expected.items():
    found = index.lookup(prefix)
    assert len(found) == len(items) and set(found.tolist()) == items


def test_items_of_a_path_are_in_item_order_and_cover_the_catalogue():
  codes = _codes()
  index = InvertedIndex.from_codes(codes)
  np.testing.assert_array_equal(np.sort(index.items), np.arange(200))
  for path in index.paths:
    found = index.lookup(path)
    assert len(found) and (np.diff(found) > 0).all()
    np.testing.assert_array_equal(codes[found], np.tile(path, (len(found), 1)))


def test_an_unknown_path_has_no_items_and_too_long_a_prefix_is_refused():
  index = InvertedIndex.from_codes([[0, 5], [2, 5]])
  for prefix in [(1,), (1, 5), (0, 4), (0, 6), (9, 9)]:
    assert index.lookup(prefix).tolist() == []
  with pytest.raises(ValueError, match="has 3 codes, at most 2"):
    index.lookup((0, 5, 1))


def test_saved_index_is_the_same(tmp_path):
  index = InvertedIndex.from_codes(_codes())
  index.save(tmp_path / "index.npz")
  loaded = InvertedIndex.load(tmp_path / "index.npz")
  for name in ("paths", "offsets", "items"):
    np.testing.assert_array_equal(getattr(index, name), getattr(loaded, name))


@pytest.mark.parametrize(
  "codes,message",
  [
    (np.zeros(3, np.int32), r"codes: int32\[3\]"),
    (np.zeros((2, 2)), r"codes: float64\[2, 2\]"),
    (np.array([[0, 1], [2, -1]]), r"row 1 is \[2, -1\]"),
  ],
)
def test_bad_codes_are_named(codes, message):
  with pytest.raises(ValueError, match=message):
    add_suffix(codes, 4)
