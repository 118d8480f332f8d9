"""Fixed-layout records in ArrayRecord files: a record is the columns' bytes one after the other, little-endian.

A directory's schema.json holds the layout and each file's size, so that reading a batch is one np.frombuffer and a
truncated or foreign file is refused when it is opened (ArrayRecord itself opens a truncated file as an empty one).
"""

import json
import os

import numpy as np

from ega_jax.data.examples import OBSERVED_COLUMNS

FORMAT = "ega_jax prepared data, version 1"
_WRITER_OPTIONS = "group_size:1,zstd:1"  # one record per chunk: random access
_CHUNK = 4096  # records held at once


def layout_of(columns) -> dict:
  """Returns {name: {"dtype", "shape"}} of columns [n, ...].

  Raises:
    ValueError: a column is not one of OBSERVED_COLUMNS.
  """
  refuse_unlisted(columns)
  return {name: {"dtype": str(x.dtype), "shape": list(x.shape[1:])} for name, x in columns.items()}


def refuse_unlisted(names):
  """Raises ValueError if a name is not in OBSERVED_COLUMNS: batches hold observed columns only."""
  for name in names:
    if name not in OBSERVED_COLUMNS:
      raise ValueError(f"column {name!r} is not an observed column; allowed are {list(OBSERVED_COLUMNS)}")


def record_dtype(layout) -> np.dtype:
  """Returns the packed structured dtype of a record: columns by name, whatever the order of the layout."""
  field = lambda name, entry: (name, np.dtype(entry["dtype"]).newbyteorder("<"), tuple(entry["shape"]))
  return np.dtype([field(name, layout[name]) for name in sorted(layout)])


def write_records(path, columns, start, end) -> dict:
  """Writes rows start..end of columns [n, ...] to an ArrayRecord file; returns its schema entry."""
  from array_record.python import array_record_module

  dtype = record_dtype(layout_of(columns))
  writer = array_record_module.ArrayRecordWriter(path, _WRITER_OPTIONS)
  for chunk in range(start, end, _CHUNK):
    stop = min(end, chunk + _CHUNK)
    records = np.empty(stop - chunk, dtype)
    for name, values in columns.items():
      records[name] = values[chunk:stop]
    buffer, size = records.tobytes(), dtype.itemsize
    for at in range(0, len(buffer), size):
      writer.write(buffer[at : at + size])
  writer.close()
  return {
    "first_row": start,
    "count": end - start,
    "record_bytes": dtype.itemsize,
    "file_bytes": os.path.getsize(path),
  }


def write_schema(directory, schema):
  """Writes schema.json, the last file of a directory: where it is missing, preparing did not finish."""
  with open(os.path.join(directory, "schema.json"), "w", encoding="utf-8") as file:
    json.dump({"format": FORMAT} | schema, file, indent=2, sort_keys=True)


def read_schema(directory) -> dict:
  """Returns schema.json of a prepared directory.

  Raises:
    ValueError: it is missing, unreadable, or of another format.
  """
  path = os.path.join(directory, "schema.json")
  if not os.path.isfile(path):
    raise ValueError(f"{path}: no such file; write prepared data with `python -m launch.prepare_data --output=DIR`")
  try:
    with open(path, encoding="utf-8") as file:
      schema = json.load(file)
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f"{path}: not JSON, or truncated ({error})") from error
  if not isinstance(schema, dict) or schema.get("format") != FORMAT:
    found = schema.get("format") if isinstance(schema, dict) else type(schema).__name__
    raise ValueError(f"{path}: format is {found!r}, {FORMAT!r} is needed")
  return schema


def identity(directory) -> dict:
  """Returns what tells prepared data apart: schema.json without the command and the commit that wrote it.

  Raises: ValueError, see read_schema.
  """
  return {key: value for key, value in read_schema(directory).items() if key not in ("command", "commit")}


class RecordFile:
  """Random access to one split of a prepared directory; safe to share between threads and to pickle."""

  def __init__(self, directory, split):
    """Opens DIRECTORY/SPLIT.array_record.

    Raises:
      ValueError: unknown split, or the file is missing, truncated, of another size than written, or foreign.
    """
    schema = read_schema(directory)
    if split not in schema["splits"]:
      raise ValueError(f"split is {split!r}, {directory} has {sorted(schema['splits'])}")
    self.path = os.path.join(directory, f"{split}.array_record")
    self.layout = schema["columns"]
    self.entry = schema["splits"][split]
    self._dtype = record_dtype(self.layout)
    self._check_size()
    self._open()

  def _check_size(self):
    if self._dtype.itemsize != self.entry["record_bytes"]:
      raise ValueError(f"{self.path}: the schema's columns take {self._dtype.itemsize} bytes, its records {self.entry}")
    if not os.path.isfile(self.path):
      raise ValueError(f"{self.path}: no such file")
    size = os.path.getsize(self.path)
    if size != self.entry["file_bytes"]:
      what = "truncated" if size < self.entry["file_bytes"] else "not the file that was written"
      raise ValueError(f"{self.path}: {size} bytes, schema.json says {self.entry['file_bytes']}: {what}")

  def _open(self):
    from array_record.python import array_record_module

    self._reader = array_record_module.ArrayRecordReader(self.path, "readahead_buffer_size:0,max_parallelism:0")
    found = self._reader.num_records()
    if found != len(self):
      raise ValueError(f"{self.path}: {found} records, schema.json says {len(self)}: foreign or damaged")

  def __getstate__(self):
    return {name: value for name, value in self.__dict__.items() if name != "_reader"}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._open()

  def __len__(self):
    return self.entry["count"]

  def chosen(self, columns=None) -> tuple[str, ...]:
    """Returns the columns to read: all, or `columns` once checked against the allow-list and the file.

    Raises: ValueError naming the first that one of the two lacks.
    """
    names = tuple(self.layout) if columns is None else tuple(columns)
    refuse_unlisted(names)
    missing = [name for name in names if name not in self.layout]
    if missing:
      raise ValueError(f"{self.path}: no column {missing[0]!r}; it has {list(self.layout)}")
    return names

  def read(self, indices, columns=None) -> dict[str, np.ndarray]:
    """Returns {column: [n, ...]} of the records at `indices` i[n] (positions in this split).

    Raises: ValueError: a position outside of the split, an unknown column, or a damaged record.
    """
    indices = np.asarray(indices, np.int64)
    if len(indices) and not (0 <= indices.min() and indices.max() < len(self)):
      raise ValueError(f"{self.path}: rows {indices.min()}..{indices.max()} asked for, it has 0..{len(self) - 1}")
    names = self.chosen(columns)
    out = {name: np.empty((len(indices), *self._dtype[name].shape), self._dtype[name].base) for name in names}
    for start in range(0, len(indices), _CHUNK):
      try:
        buffer = b"".join(self._reader.read(indices[start : start + _CHUNK].tolist()))
      except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"{self.path}: damaged record ({error})") from error
      records = np.frombuffer(buffer, self._dtype)
      for name in names:
        out[name][start : start + _CHUNK] = records[name]
    return out
