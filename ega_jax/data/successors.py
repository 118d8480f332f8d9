"""First-order transitions of all users, counted up to a moment: which POIs followed the one last visited."""

import dataclasses

import numpy as np

_CELLS = 1 << 21  # entries of a count table held at once


@dataclasses.dataclass(frozen=True)
class Transitions:
  """Consecutive visits of a user, sorted by the POI that was left, then by time."""

  previous: np.ndarray  # i32[E]
  next: np.ndarray  # i32[E]
  time: np.ndarray  # i64[E]  minutes; when `next` was visited, that is when the transition became known


def transitions_of(visits) -> Transitions:
  """Returns the Transitions in `visits` (history.Events of visits alone)."""
  same_user = visits.user[1:] == visits.user[:-1]
  previous, following, time = visits.poi[:-1][same_user], visits.poi[1:][same_user], visits.time[1:][same_user]
  order = np.lexsort((following, time, previous))
  return Transitions(previous[order], following[order], time[order])


def successor_columns(transitions: Transitions, poi, time, width):
  """Returns successor_poi i32[B, S] and successor_count f32[B, S]: what followed `poi` i[B] before `time` i[B].

  The `width` = S most frequent successors, ties by id, -1 padded (count 0). poi -1 (no visit so far) has none.
  """
  poi, time = np.asarray(poi), np.asarray(time)
  successor = np.full((len(poi), width), -1, np.int32)
  count = np.zeros((len(poi), width), np.float32)
  order = np.lexsort((time, poi))
  bounds = np.flatnonzero(np.diff(poi[order], prepend=-2, append=-2))
  for start, end in zip(bounds[:-1], bounds[1:], strict=True):
    rows = order[start:end]
    first, last = np.searchsorted(transitions.previous, [poi[rows[0]], poi[rows[0]] + 1])
    if first < last and poi[rows[0]] >= 0:
      _count_group(transitions.next[first:last], transitions.time[first:last], rows, time[rows], successor, count)
  return {"successor_poi": successor, "successor_count": count}


def _count_group(following, known_at, rows, time, successor, count):
  """Fills `rows` of the two columns for one POI: transitions and queries both sorted by time."""
  names, column = np.unique(following, return_inverse=True)
  chunk = max(1, _CELLS // len(names))
  counts = np.zeros(len(names), np.int64)  # as of the query before the chunk
  done = 0
  for start in range(0, len(rows), chunk):
    at = time[start : start + chunk]
    until = np.searchsorted(known_at, at, side="left")  # transitions with time < t
    new = np.arange(done, until[-1])
    table = np.zeros((len(at), len(names)), np.int64)
    np.add.at(table, (np.searchsorted(until, new, side="right"), column[new]), 1)
    table[0] += counts
    table = np.cumsum(table, axis=0)
    counts, done = table[-1], until[-1]
    _keep_most_frequent(names, table, rows[start : start + chunk], successor, count)


def _keep_most_frequent(names, table, rows, successor, count):
  """Writes the most frequent columns of `table` [n, names] into `rows`, ties by id (names are sorted)."""
  width = min(successor.shape[1], len(names))
  rank = table * len(names) + np.arange(len(names))[::-1]  # distinct: count first, then the smaller id
  if width < len(names):
    best = np.argpartition(rank, -width, axis=1)[:, -width:]
  else:
    best = np.broadcast_to(np.arange(len(names)), rank.shape)
  best = np.take_along_axis(best, np.argsort(-np.take_along_axis(rank, best, 1), axis=1), 1)
  found = np.take_along_axis(table, best, 1)
  successor[rows, :width] = np.where(found > 0, names[best], -1)
  count[rows, :width] = found
