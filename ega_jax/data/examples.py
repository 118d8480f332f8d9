"""Columns of examples: what the platform knew when a page was requested, what it logged, and what came next.

A pure function of events and logs; a request at time t sees events with time < t only.
"""

import dataclasses

import numpy as np

from ega_jax.data import history, successors
from ega_jax.types import Request

HISTORY = 64  # events of a request's history
SUCCESSORS = 32  # successors of the last visited POI
TARGETS = 6  # next visits
NUM_FOLDS = 10
VALIDATION_SHARE = 0.4  # of the requests after the cut, the earliest
SPLITS = ("train", "validation", "test")

REQUEST_COLUMNS = tuple(field.name for field in dataclasses.fields(Request))
LOG_COLUMNS = (
  "shown_item",  # i32[B, K]  positions in the candidates
  "shown_creative",  # i32[B, K]  creative ids
  "shown_propensity",  # f32[B, K]
  "explored",  # bool[B]
  "shown_payment",  # f32[B, K]  per click
  "click",  # i8[B, K]
  "creative_click",  # i8[B, K]
  "conversion",  # i8[B, K]
)
TARGET_COLUMNS = ("target_poi",)  # i32[B, T]  next visits, -1 padded; of a training request those before the cut
INDEX_COLUMNS = ("row", "fold")  # i32[B]  the request's number, and its fold 0..9
# All that a batch may hold: any other column is refused, when written and when read.
OBSERVED_COLUMNS = REQUEST_COLUMNS + LOG_COLUMNS + TARGET_COLUMNS + INDEX_COLUMNS
_FROM_REQUESTS = ("user", "place", "hour", "candidates", "is_ad", "bid", "value_mu")
_TYPES = {"place": np.float32, "is_ad": bool, "bid": np.float32, "value_mu": np.float32, "explored": bool}
_TYPES |= {"shown_propensity": np.float32, "shown_payment": np.float32}
_TYPES |= {name: np.int8 for name in ("click", "creative_click", "conversion")}


def build_columns(marketplace, seed) -> dict[str, np.ndarray]:
  """Returns OBSERVED_COLUMNS of all requests, [requests, ...] each, in the order of `row`.

  Args:
    marketplace: has behaviour (user, poi, time), requests, logs and cut_time.
    seed: of the folds.
  """
  requests, logs = marketplace.requests, marketplace.logs
  user, time = requests["user"], requests["time"]
  visits = history.visit_events(marketplace.behaviour)
  columns = {name: np.asarray(requests[name], _TYPES.get(name, np.int32)) for name in _FROM_REQUESTS}
  events = history.visits_and_clicks(marketplace.behaviour, requests, logs)
  columns |= history.history_columns(events, user, time, HISTORY)
  columns |= _successors(visits, user, time)
  columns |= {name: np.asarray(logs[name], _TYPES.get(name, np.int32)) for name in LOG_COLUMNS}
  withheld = np.where(time < marketplace.cut_time, marketplace.cut_time, np.iinfo(np.int64).max)
  columns["target_poi"] = history.next_pois(visits, user, time, TARGETS, before=withheld)
  columns["row"] = np.arange(len(time), dtype=np.int32)
  columns["fold"] = fold_of(columns["row"], seed)
  return {name: columns[name] for name in OBSERVED_COLUMNS}


def _successors(visits, user, time):
  last = history.last_visit(visits, user, time)
  poi = np.where(last >= 0, np.append(visits.poi, -1)[last], -1)
  return successors.successor_columns(successors.transitions_of(visits), poi, time, SUCCESSORS)


def fold_of(row, seed):
  """Returns i32[...] in 0..9: a seeded hash (splitmix64) of the request's number, alike in every process."""
  x = np.asarray(row).astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return ((x ^ (x >> np.uint64(31))) % np.uint64(NUM_FOLDS)).astype(np.int32)


def split_bounds(time, cut_time) -> dict[str, tuple[int, int]]:
  """Returns {split: (first row, end row)} of requests at `time` i64[B], sorted.

  Training requests are before the cut; the earliest 40 % of the others is validation, the rest test.

  Raises:
    ValueError: the requests are not sorted by time.
  """
  time = np.asarray(time)
  if np.any(np.diff(time) < 0):
    raise ValueError("requests must be sorted by time")
  cut = int(np.searchsorted(time, cut_time, side="left"))
  middle = cut + int(VALIDATION_SHARE * (len(time) - cut))
  return dict(zip(SPLITS, [(0, cut), (cut, middle), (middle, len(time))], strict=True))
