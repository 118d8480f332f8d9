"""From code paths to semantic ids and back: the collision suffix, shared buckets, and the inverted index."""

import dataclasses

import numpy as np

from ega_jax.types import Array, record


def _check_codes(codes):
  """Returns `codes` as i32[N, L]. Raises ValueError for another rank, no items, or negative codes."""
  array = np.asarray(codes)
  if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "iu":
    raise ValueError(f"codes: {array.dtype}{list(array.shape)} is not allowed, expected integers [items, levels]")
  if array.min() < 0:
    row = int(np.argmin(array.min(axis=1)))
    raise ValueError(f"codes: row {row} is {array[row].tolist()}, negative codes are not allowed")
  return array.astype(np.int32)


def suffixes(codes):
  """Returns i32[N]: how many items before this one, in item order, have the same path `codes` i[N, L]."""
  _, inverse = np.unique(codes, axis=0, return_inverse=True)
  order = np.argsort(inverse, kind="stable")
  bucket = inverse[order]
  start = np.searchsorted(bucket, bucket, side="left")
  result = np.empty(len(bucket), np.int32)
  result[order] = np.arange(len(bucket)) - start
  return result


def add_suffix(codes, vocabulary):
  """Returns i32[N, L + 1], `codes` with one more code that makes every path unique (our decision, as TIGER does).

  Items of a bucket are numbered in item order, so appending items never renumbers earlier ones.

  Raises:
    ValueError: a bucket holds more items than the suffix has words; names the bucket, its size and the vocabulary.
  """
  codes = _check_codes(codes)
  last = suffixes(codes)
  if last.max() >= vocabulary:
    worst = codes[np.argmax(last)]
    size = int(last.max()) + 1
    raise ValueError(
      f"collision bucket {worst.tolist()} holds {size} items but the suffix vocabulary has {vocabulary}: "
      f"allow at least {size}, or use more levels or larger codebooks"
    )
  return np.concatenate([codes, last[:, None]], axis=1)


def resolve_collisions(codes, *, collision="suffix", suffix_vocabulary=None):
  """Returns the ids of the items: i32[N, L + 1] with `collision="suffix"`, the shared paths i32[N, L] with "bucket".

  `suffix_vocabulary` bounds the last code; None allows what the largest bucket needs.

  Raises: ValueError: another `collision`, malformed codes, or as in `add_suffix`.
  """
  if collision == "bucket":
    return _check_codes(codes)
  if collision != "suffix":
    raise ValueError(f"collision: {collision!r} is not allowed, expected 'suffix' or 'bucket'")
  return add_suffix(codes, len(codes) if suffix_vocabulary is None else suffix_vocabulary)


@record
class InvertedIndex:
  """The way back from a path to its items, as arrays: row r of `paths` owns items[offsets[r]:offsets[r + 1]].

  Paths are sorted lexicographically, so that the items under a prefix are one contiguous slice too.
  """

  paths: Array  # i32[M, L]  distinct, sorted
  offsets: Array  # i64[M + 1]
  items: Array  # i32[N]     ascending within a path

  @classmethod
  def from_codes(cls, codes):
    """Returns the index of items 0..N-1 with paths `codes` i[N, L]."""
    codes = _check_codes(codes)
    paths, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    items = np.argsort(inverse, kind="stable").astype(np.int32)
    return cls(paths.astype(np.int32), np.concatenate([[0], np.cumsum(counts)]), items)

  def rows(self, prefix):
    """Returns (first, last): the half-open range of `paths` that begin with `prefix`, a sequence of <= L codes.

    Raises: ValueError for a longer one.
    """
    prefix = tuple(int(code) for code in prefix)
    if len(prefix) > self.paths.shape[1]:
      raise ValueError(f"prefix: {prefix} has {len(prefix)} codes, at most {self.paths.shape[1]} allowed")
    first, last = 0, len(self.paths)
    for level, code in enumerate(prefix):
      column = self.paths[first:last, level]
      first, last = first + np.searchsorted(column, code), first + np.searchsorted(column, code, side="right")
    return int(first), int(last)

  def lookup(self, prefix):
    """Returns the items under a path or any prefix of one, i32[n], by path and then item; empty if there is none."""
    first, last = self.rows(prefix)
    return self.items[self.offsets[first] : self.offsets[last]]

  def save(self, path):
    """Writes the index to `path` (.npz)."""
    np.savez(path, **{field.name: np.asarray(getattr(self, field.name)) for field in dataclasses.fields(self)})

  @classmethod
  def load(cls, path):
    """Returns the index that `save` wrote."""
    with np.load(path) as stored:
      return cls(**{field.name: stored[field.name] for field in dataclasses.fields(cls)})
