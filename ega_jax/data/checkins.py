"""A city's check-ins as arrays: the public Foursquare format (Yang et al. 2015, TSMC2014) in four plain files.

  checkins.tsv             user, local_time (YYYY-MM-DD HH:MM), poi              one row per check-in, any order
  pois.tsv                 poi, category, lat, lon (degrees; more columns are ignored)
  category_embeddings.npy  [P, D], row i belongs to the i-th row of pois.tsv     optional
  windows_{train,val,test}.csv  Uid, Pids, Times, Target, Target_time            optional: the public next-POI split

POI ids are arbitrary integers and user ids arbitrary words. Inside, both become positions.
Every text file is UTF-8 and ends with a newline.
"""

import dataclasses
import os
import re

import numpy as np

KM_PER_DEGREE = 111.195  # of latitude, on a sphere of radius 6371 km
_INTEGER = re.compile(r"\s*[+-]?\d{1,18}\s*")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?")


@dataclasses.dataclass(frozen=True)
class Checkins:
  """A city: E check-ins of users at P POIs, sorted by time (ties in file order)."""

  user: np.ndarray  # i32[E]   position in user_ids
  poi: np.ndarray  # i32[E]   position in poi_ids
  time: np.ndarray  # i64[E]   local minutes since 1970-01-01
  user_ids: np.ndarray  # str[users]
  poi_ids: np.ndarray  # i64[P]   in the order of pois.tsv
  place: np.ndarray  # f32[P, 2]   kilometres east and north of the median POI
  category: np.ndarray  # i32[P]   position in category_names
  category_names: tuple  # sorted
  embedding: np.ndarray | None  # f32[P, D]

  @property
  def num_users(self):
    """How many users there are."""
    return len(self.user_ids)

  @property
  def num_pois(self):
    """How many POIs there are."""
    return len(self.poi_ids)


def read_checkins(directory) -> Checkins:
  """Returns the city stored in `directory`.

  Raises:
    ValueError: a file is missing, truncated or malformed, or names an unknown POI; names the file and the line.
  """
  poi_ids, place, category, category_names = _read_pois(os.path.join(directory, "pois.tsv"))
  path = os.path.join(directory, "checkins.tsv")
  columns = read_table(path, ("user", "local_time", "poi"))
  poi = lookup(path, "poi", parse_integers(path, "poi", columns["poi"]), poi_ids, "pois.tsv")
  time = parse_times(path, "local_time", columns["local_time"])
  if not len(time):
    raise ValueError(f"{path}: no check-ins after the header line")
  names = sorted(set(columns["user"]), key=lambda name: (len(name), name))
  position = {name: i for i, name in enumerate(names)}
  user = np.array([position[name] for name in columns["user"]], np.int32)
  order = np.argsort(time, kind="stable")
  return Checkins(
    user=user[order],
    poi=poi[order],
    time=time[order],
    user_ids=np.array(names),
    poi_ids=poi_ids,
    place=place,
    category=category,
    category_names=category_names,
    embedding=_read_embedding(os.path.join(directory, "category_embeddings.npy"), len(poi_ids)),
  )


def _read_pois(path):
  """Returns (poi_ids i64[P], place f32[P, 2] km, category i32[P], category names)."""
  columns = read_table(path, ("poi", "category", "lat", "lon"))
  poi_ids = parse_integers(path, "poi", columns["poi"])
  if not len(poi_ids):
    raise ValueError(f"{path}: no POIs after the header line")
  _, first = np.unique(poi_ids, return_index=True)
  if len(first) < len(poi_ids):
    again = np.setdiff1d(np.arange(len(poi_ids)), first)[0]
    raise ValueError(f"{path}, line {again + 2}: poi {poi_ids[again]} occurs twice; POI ids must be unique")
  lat = _parse_degrees(path, "lat", columns["lat"], 90)
  lon = _parse_degrees(path, "lon", columns["lon"], 180)
  names = tuple(sorted(set(columns["category"])))
  position = {name: i for i, name in enumerate(names)}
  category = np.array([position[name] for name in columns["category"]], np.int32)
  return poi_ids, local_plane(lat, lon), category, names


def local_plane(lat, lon):
  """Returns f32[P, 2]: kilometres east and north of the median place (equirectangular; exact enough for one city)."""
  middle = np.median(lat)
  east = (lon - np.median(lon)) * np.cos(np.deg2rad(middle))
  return (KM_PER_DEGREE * np.stack([east, lat - middle], -1)).astype(np.float32)


def _read_embedding(path, num_pois):
  """Returns f32[P, D], or None when there is no such file."""
  if not os.path.exists(path):
    return None
  try:
    embedding = np.load(path, allow_pickle=False)
  except (ValueError, EOFError, OSError) as error:
    raise ValueError(f"{path}: not a readable .npy array, or truncated ({error})") from error
  if not isinstance(embedding, np.ndarray):
    raise ValueError(f"{path}: an archive of arrays; one .npy array is needed")
  if embedding.ndim != 2 or len(embedding) != num_pois:
    raise ValueError(f"{path}: shape {embedding.shape}, but pois.tsv has {num_pois} POIs: [{num_pois}, D] is needed")
  if not np.issubdtype(embedding.dtype, np.floating) or not np.isfinite(embedding).all():
    raise ValueError(f"{path}: every entry must be a finite float (dtype {embedding.dtype})")
  return embedding.astype(np.float32)


# Shared with the reader of the windows: tables whose errors name the file and the line.


def read_lines(path):
  """Returns the lines of a text file, without blank ones at its end or a byte-order mark.

  Raises:
    ValueError: it is missing, empty, not text, or does not end with a newline: cut files are like that.
  """
  if not os.path.isfile(path):
    raise ValueError(f"{path}: no such file")
  try:
    with open(path, encoding="utf-8-sig") as file:
      text = file.read()
  except UnicodeDecodeError as error:
    raise ValueError(f"{path}: not UTF-8 text ({error})") from error
  if not text.strip():
    raise ValueError(f"{path}: the file is empty; a header line is needed")
  if not text.endswith("\n"):
    found = "the last line does not end with a newline, so the file may be truncated"
    raise ValueError(f"{path}: {found}; end it with a newline if it is complete")
  lines = text.removesuffix("\n").split("\n")
  while not lines[-1].strip():
    lines.pop()
  return lines


def column_positions(path, header, required):
  """Returns the position of each required column among the fields `header` of a file's first line.

  Raises: ValueError naming the file and the first column that is missing.
  """
  missing = [name for name in required if name not in header]
  if missing:
    raise ValueError(f"{path}, line 1: column {missing[0]!r} is missing; it has {header}, needed are {list(required)}")
  return [header.index(name) for name in required]


def read_table(path, required, separator="\t"):
  """Returns the required columns of a separated file: dict of name -> list of strings, row i being line i + 2.

  Raises: ValueError as `read_lines` and `column_positions`, or naming a line with more or fewer columns than the
    header.
  """
  header, *lines = [line.split(separator) for line in read_lines(path)]
  positions = column_positions(path, header, required)
  for number, fields in enumerate(lines, 2):
    if len(fields) != len(header):
      end = " (the last line: the file is truncated)" if number == len(lines) + 1 else ""
      raise ValueError(f"{path}, line {number}: {len(fields)} columns, the header has {len(header)}{end}")
  return {name: [fields[at] for fields in lines] for name, at in zip(required, positions, strict=True)}


def parse_integers(path, name, texts, line_of=lambda row: row + 2):
  """Returns i64[n] of a column's texts.

  Args: path, name: the file and the column, for messages; texts: n strings or integers; line_of: row -> line number.
  Raises: ValueError naming the first line that is not an integer.
  """
  for row, text in enumerate(texts):
    if not _INTEGER.fullmatch(str(text)):  # int() would take 3.7, True and 1_000
      raise ValueError(f"{path}, line {line_of(row)}: {name} is {text!r}, an integer is needed")
  return np.array([int(text) for text in texts], np.int64)


def parse_times(path, name, texts, line_of=lambda row: row + 2):
  """Returns i64[n], local minutes since 1970-01-01, of a column's texts; seconds are dropped.

  Args: path, name: the file and the column, for messages; texts: n strings YYYY-MM-DD HH:MM[:SS]; line_of: row -> line
    number.
  Raises: ValueError naming the first line that is no time.
  """
  for row, text in enumerate(texts):
    if not _TIME.fullmatch(str(text)):
      raise ValueError(f"{path}, line {line_of(row)}: {name} is {text!r}, a time YYYY-MM-DD HH:MM is needed")
  try:
    return np.array([text[:16] for text in texts], "datetime64[m]").astype(np.int64)
  except ValueError:
    row = next(row for row, text in enumerate(texts) if not _is_time(text))
    raise ValueError(f"{path}, line {line_of(row)}: {name} is {texts[row]!r}, which is no date and time") from None


def _is_time(text):
  try:
    np.datetime64(text[:16], "m")
  except ValueError:
    return False
  return True


def _parse_degrees(path, name, texts, limit):
  """Returns f64[n] degrees. Raises ValueError naming the first line that is no number within +-limit."""
  values = np.empty(len(texts))
  for row, text in enumerate(texts):
    try:
      values[row] = float(text)
    except ValueError:
      values[row] = np.nan
    if not abs(values[row]) <= limit:
      raise ValueError(f"{path}, line {row + 2}: {name} is {text!r}, degrees within +-{limit} are needed")
  return values


def lookup(path, name, ids, known, where, line_of=lambda row: row + 2):
  """Returns i32[n], the positions of `ids` i64[n] in `known` (i64[P], any order).

  Args: path, name, where: the file, the column and what holds the known ids, for messages; line_of: row -> line number.
  Raises: ValueError naming the first unknown id and its line.
  """
  order = np.argsort(known, kind="stable")
  at = order[np.searchsorted(known, ids, sorter=order).clip(0, len(known) - 1)]
  unknown = np.flatnonzero(known[at] != ids)
  if len(unknown):
    raise ValueError(f"{path}, line {line_of(unknown[0])}: {name} {ids[unknown[0]]} is not in {where}")
  return at.astype(np.int32)
