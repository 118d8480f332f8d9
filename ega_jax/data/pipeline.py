"""Batches of prepared data or of arrays: sharded by process, shuffled by seed, resumable.

The global batch of a step depends on the seed and the step alone, and a process gets its slice of it: one process and
several train on the same examples in the same order. Rows are drawn and read a batch at a time; Grain keeps the
position, reads ahead and resumes.
"""

import dataclasses
import functools
import os

import numpy as np

from ega_jax.data.arrays import load_arrays
from ega_jax.data.examples import fold_of
from ega_jax.data.records import RecordFile, read_schema
from ega_jax.types import Catalog

_ENDLESS = 2**40  # steps


def train_batches(
  directory, split, batch_size, seed, *, columns=None, folds=None, process_index=0, process_count=1, num_threads=1
):
  """Returns a grain.IterDataset of endless shuffled batches: dicts of numpy arrays [batch_size / process_count, ...].

  Its iterator's state goes into a checkpoint (grain.checkpoint.CheckpointSave) and resumes exactly.

  Args:
    directory: prepared data.
    split: "train", "validation" or "test".
    batch_size: examples per step over all processes.
    seed: of the order; every epoch has another.
    columns: names to read; all if None.
    folds: keep only requests of these folds (0..9); all if None.
    process_index: this process, 0..process_count - 1.
    process_count: must divide batch_size.
    num_threads: that read ahead.

  Raises:
    ValueError: see the conditions above, and RecordFile.
  """
  file = RecordFile(directory, split)
  names = file.chosen(columns)
  rows = np.arange(len(file)) if folds is None else rows_of_folds(directory, split, folds)
  return _shuffled(rows, lambda i: file.read(i, names), batch_size, seed, process_index, process_count, num_threads)


def rows_of_folds(directory, split, folds):
  """Returns i64[n]: positions in a split of the requests of some folds (0..9), in order."""
  entry, seed = RecordFile(directory, split).entry, read_schema(directory)["seed"]
  return np.flatnonzero(np.isin(fold_of(entry["first_row"] + np.arange(entry["count"]), seed), _checked(folds)))


def from_arrays(columns, batch_size, seed, *, process_index=0, process_count=1):
  """Returns a grain.IterDataset as train_batches does, over in-memory columns {name: [n, ...]}; any names.

  batch_size, seed, process_index, process_count: as in train_batches.

  Raises: ValueError: columns of different lengths, or no rows; see train_batches.
  """
  columns = {name: np.asarray(values) for name, values in columns.items()}
  lengths = {name: len(values) for name, values in columns.items()}
  if not lengths or len(set(lengths.values())) != 1:
    raise ValueError(f"columns must have one common length, have {lengths}")
  rows = np.arange(next(iter(lengths.values())))
  take = lambda indices: {name: values[indices] for name, values in columns.items()}
  return _shuffled(rows, take, batch_size, seed, process_index, process_count, 1)


def _shuffled(rows, read, batch_size, seed, process_index, process_count, num_threads):
  """Returns a grain.IterDataset of read(rows of this process's slice of each global batch)."""
  import grain

  share = _share(batch_size, process_index, process_count)
  if not len(rows):
    raise ValueError("no examples to train on: the split, or the chosen folds of it, is empty")

  def batch_of(step):
    position = step * batch_size + process_index * share + np.arange(share)
    return read(rows[_shuffled_positions(position, len(rows), seed)])

  dataset = grain.MapDataset.range(_ENDLESS).map(batch_of)
  return dataset.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=4))


def _shuffled_positions(position, length, seed):
  """Returns i64[b]: entries `position` i64[b] of an endless sequence, a permutation of 0..length-1 per epoch."""
  epoch, offset = np.divmod(position, length)
  out = np.empty(len(position), np.int64)
  for number in np.unique(epoch):
    now = epoch == number
    out[now] = _permutation(length, seed, int(number))[offset[now]]
  return out


@functools.lru_cache(maxsize=8)
def _permutation(length, seed, epoch):
  return np.random.default_rng([seed, epoch]).permutation(length)


def _share(batch_size, process_index, process_count):
  """Returns the examples per step of one process."""
  if batch_size < 1 or process_count < 1 or batch_size % process_count:
    raise ValueError(f"batch_size is {batch_size}: it must be a positive multiple of the {process_count} processes")
  if not 0 <= process_index < process_count:
    raise ValueError(f"process_index is {process_index}, 0..{process_count - 1} is allowed")
  return batch_size // process_count


def _checked(folds):
  folds = np.atleast_1d(np.asarray(folds))
  if not folds.size or not np.isin(folds, np.arange(10)).all():
    raise ValueError(f"folds is {folds.tolist()}, a choice of 0..9 is needed")
  return folds


def eval_batches(directory, split, batch_size, *, columns=None, rows=None, process_index=0, process_count=1):
  """Yields a split once, in order: batches with `where` bool[b], False on the padding of the last one.

  The padding repeats a real example. All processes get equally many batches.

  Args:
    rows: i[n] positions in the split to keep; all if None.
    directory, split, batch_size, columns, process_index, process_count: as in train_batches.
  """
  file = RecordFile(directory, split)
  names = file.chosen(columns)
  share = _share(batch_size, process_index, process_count)
  rows = np.arange(len(file)) if rows is None else np.asarray(rows)
  for start in range(0, len(rows), batch_size):
    position = start + process_index * share + np.arange(share)
    where = position < len(rows)
    yield file.read(rows[np.where(where, position, 0)], names) | {"where": where}


def read_split(directory, split, columns=None, rows=None) -> dict[str, np.ndarray]:
  """Returns {column: [n, ...]} of a whole split, or of its positions `rows` i[n] (0 = the split's first request)."""
  file = RecordFile(directory, split)
  return file.read(np.arange(len(file)) if rows is None else rows, columns)


def read_catalog(directory) -> Catalog:
  """Returns the prepared catalogue, arrays in memory.

  Raises: ValueError naming the file, if it is missing, damaged or foreign.
  """
  path = os.path.join(directory, "catalog.npz")
  if not os.path.isfile(path):
    raise ValueError(f"{path}: no such file")
  arrays = load_arrays(path)
  names = {field.name for field in dataclasses.fields(Catalog)}
  if set(arrays) != names:
    raise ValueError(f"{path}: has {sorted(arrays)}, a catalogue has {sorted(names)}")
  return Catalog(**arrays)


def check_files(directory):
  """Opens every file that training reads, so that a damaged one is found before hours of it: reads little.

  Raises: ValueError naming the file that is missing, truncated or foreign.
  """
  read_catalog(directory)
  for split in read_schema(directory)["splits"]:
    RecordFile(directory, split)
    read_next_poi(directory, split)


def read_next_poi(directory, split) -> dict[str, np.ndarray] | None:
  """Returns a split's public next-POI windows ("train", "validation", "test") as request columns, None without any."""
  path = os.path.join(directory, f"next_poi_{split}.npz")
  return load_arrays(path) if os.path.isfile(path) else None
