"""The public next-POI split of a city: windows_{train,val,test}.csv, and its windows as request columns.

A row is `Uid,Pids,Times,Target,Target_time`: the visits before, and the visit to predict. Real data only: there are no
candidates, bids or clicks.
"""

import ast
import csv
import dataclasses
import json
import os

import numpy as np

from ega_jax.data import checkins as tables
from ega_jax.data import examples, history, successors
from ega_jax.data.market_config import hour_of_week
from ega_jax.types import VISIT

COLUMNS = ("Uid", "Pids", "Times", "Target", "Target_time")


@dataclasses.dataclass(frozen=True)
class Windows:
  """W windows; the visits of window w are offset[w]..offset[w + 1] of `poi` and `time`."""

  user: np.ndarray  # i32[W]
  offset: np.ndarray  # i64[W + 1]
  poi: np.ndarray  # i32[V]
  time: np.ndarray  # i64[V]  local minutes since 1970-01-01
  target: np.ndarray  # i32[W]
  target_time: np.ndarray  # i64[W]


def read_windows(directory, name, checkins) -> Windows | None:
  """Returns the windows of windows_{name}.csv in the positions of `checkins`, None if there is no such file.

  Raises:
    ValueError: naming the file and line of a malformed row, an unknown user or an unknown POI.
  """
  path = os.path.join(directory, f"windows_{name}.csv")
  if not os.path.exists(path):
    return None
  try:
    header, *rows = list(csv.reader(tables.read_lines(path)))
  except csv.Error as error:
    raise ValueError(f"{path}: not a table of comma-separated values ({error})") from error
  positions = tables.column_positions(path, header, COLUMNS)
  for row, fields in enumerate(rows):
    if len(fields) != len(header):
      end = " (the last line: the file is truncated)" if row == len(rows) - 1 else ""
      raise ValueError(f"{path}, line {row + 2}: {len(fields)} columns, the header has {len(header)}{end}")
  user, pois, times, target, target_time = [[fields[at] for fields in rows] for at in positions]
  pois = [_parse_list(path, row, "Pids", text) for row, text in enumerate(pois)]
  times = [_parse_list(path, row, "Times", text) for row, text in enumerate(times)]
  length = _lengths(path, pois, times)
  of_visit = np.repeat(np.arange(len(rows)), length)
  line_of_visit = lambda visit: of_visit[visit] + 2
  poi = tables.parse_integers(path, "Pids", [poi for row in pois for poi in row], line_of_visit)
  return Windows(
    user=_users(path, user, checkins),
    offset=np.concatenate([[0], np.cumsum(length)]),
    poi=tables.lookup(path, "Pids: POI", poi, checkins.poi_ids, "pois.tsv", line_of_visit),
    time=tables.parse_times(path, "Times", [time for row in times for time in row], line_of_visit),
    target=tables.lookup(path, "Target", tables.parse_integers(path, "Target", target), checkins.poi_ids, "pois.tsv"),
    target_time=tables.parse_times(path, "Target_time", target_time),
  )


def _parse_list(path, row, name, text):
  """Returns the list written in a field, JSON or Python."""
  try:
    values = json.loads(text)
  except (ValueError, RecursionError):
    try:
      values = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two of brackets in brackets
      values = None
  if not isinstance(values, list):
    raise ValueError(f"{path}, line {row + 2}: {name} is {text[:40]!r}, a list [..] is needed")
  return values


def _lengths(path, pois, times):
  """Returns i64[W], visits per window."""
  for row, (ids, moments) in enumerate(zip(pois, times, strict=True)):
    if len(ids) != len(moments) or not ids:
      raise ValueError(f"{path}, line {row + 2}: {len(ids)} Pids and {len(moments)} Times; equally many, at least 1")
  return np.array([len(ids) for ids in pois], np.int64)


def _users(path, names, checkins):
  position = {name: i for i, name in enumerate(checkins.user_ids.tolist())}
  for row, name in enumerate(names):
    if name not in position:
      raise ValueError(f"{path}, line {row + 2}: Uid {name!r} is not a user of checkins.tsv")
  return np.array([position[name] for name in names], np.int32)


def cut_time_of(directory, checkins) -> int:
  """Returns the cut of every stage, minutes: the last Target_time of windows_train.csv.

  A city without that file is cut at the time by which 80 % of its check-ins had happened (our decision). Another cut
  would leak the public test targets.
  """
  windows = read_windows(directory, "train", checkins)
  if windows is not None and len(windows.target_time):
    return int(windows.target_time.max())
  return int(checkins.time[int(0.8 * len(checkins.time))])


def out_of_order(windows) -> np.ndarray:
  """Returns bool[W]: whether a window's visits are out of order or after its target."""
  window = np.repeat(np.arange(len(windows.target)), np.diff(windows.offset))  # of each visit
  wrong = windows.time > windows.target_time[window]
  wrong[1:] |= (np.diff(windows.time) < 0) & (np.diff(window) == 0)
  return np.bincount(window, wrong, len(windows.target)) > 0


def select(windows, chosen) -> Windows:
  """Returns the windows where chosen bool[W]."""
  length = np.diff(windows.offset)
  visits = np.repeat(chosen, length)
  offset = np.concatenate([[0], np.cumsum(length[chosen])])
  fields = {name: getattr(windows, name)[chosen] for name in ("user", "target", "target_time")}
  return Windows(offset=offset, poi=windows.poi[visits], time=windows.time[visits], **fields)


def window_columns(windows, checkins, cut_time) -> dict[str, np.ndarray]:
  """Returns the request columns [W, ...] of windows, with target_poi [W, 1], target_time and hour_known.

  The history is the window's visits; place is that of the last one; hour is the target's (see without_target_time).
  Successors are counted before the cut and before the target. Candidates are empty: [W, 0].

  Raises:
    ValueError: a window's visits are out of order or after its target.
  """
  row = np.arange(len(windows.target), dtype=np.int32)
  if out_of_order(windows).any():
    raise ValueError("a window's Times must be in order and not after its Target_time")
  last = windows.poi[windows.offset[1:] - 1]
  transitions = successors.transitions_of(history.visit_events(checkins))
  none = lambda dtype: np.zeros((len(row), 0), dtype)
  return {
    "row": row,
    "user": windows.user,
    "place": checkins.place[last],
    "hour": hour_of_week(windows.target_time).astype(np.int32),
    "hour_known": np.ones(len(row), bool),
    **_history(windows),
    **successors.successor_columns(
      transitions, last, np.minimum(windows.target_time, cut_time), examples.SUCCESSORS
    ),
    "candidates": none(np.int32),
    "is_ad": none(bool),
    "bid": none(np.float32),
    "value_mu": none(np.float32),
    "target_poi": windows.target[:, None],
    "target_time": windows.target_time,
  }


def _history(windows):
  """Returns the history columns [W, H] of the windows' visits: the last H, ages in hours before the target."""
  index = windows.offset[1:, None] + np.arange(-examples.HISTORY, 0)
  present = index >= windows.offset[:-1, None]
  index = np.where(present, index, 0)
  age = (windows.target_time[:, None] - windows.time[index]) / 60
  return {
    "history_poi": np.where(present, windows.poi[index], -1).astype(np.int32),
    "history_creative": np.full(index.shape, -1, np.int32),
    "history_action": np.where(present, VISIT, 0).astype(np.int32),
    "history_hour": np.where(present, hour_of_week(windows.time[index]), 0).astype(np.int32),
    "history_age": np.where(present, age, 0).astype(np.float32),
  }


def without_target_time(columns) -> dict[str, np.ndarray]:
  """Returns window columns as known right after the last visit: its hour, ages counted from it, hour_known False."""
  present = columns["history_action"] > 0
  age = np.where(present, columns["history_age"] - columns["history_age"][:, -1:], 0)
  unknown = {"hour": columns["history_hour"][:, -1], "history_age": age, "hour_known": np.zeros(len(age), bool)}
  return {name: values for name, values in columns.items() if name != "target_time"} | unknown
