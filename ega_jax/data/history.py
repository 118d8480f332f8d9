"""Histories: the events of a user before a moment, as right-aligned columns.

A history at time t holds events with time < t only, whatever the events at or after t are.
"""

import dataclasses

import numpy as np

from ega_jax.data.market_config import hour_of_week
from ega_jax.types import CLICK, CONVERSION, VISIT


@dataclasses.dataclass(frozen=True)
class Events:
  """E events grouped by user, in time order within a user."""

  key: np.ndarray  # i64[E]  user and time in one sortable number
  user: np.ndarray  # i32[E]
  time: np.ndarray  # i64[E]  minutes
  poi: np.ndarray  # i32[E]
  creative: np.ndarray  # i32[E]  -1 for visits and for clicks that missed the creative
  action: np.ndarray  # i32[E]

  def first_at_or_after(self, user, time):
    """Returns i64[B]: the index of the first event of `user` with time >= `time`, or where it would stand."""
    return np.searchsorted(self.key, _key(user, time), side="left")

  def span_of(self, user):
    """Returns (first, end) i64[B]: the index range of the events of `user`."""
    return np.searchsorted(self.user, user, side="left"), np.searchsorted(self.user, user, side="right")


def _key(user, time):
  """Returns i64[...] that sorts by user, then by time (minutes within +-2^31, or 4,000 years)."""
  return (np.asarray(user, np.int64) << 32) + np.asarray(time, np.int64) + 2**31


def sort_events(user, time, poi, creative, action) -> Events:
  """Returns the Events sorted by user and time; ties go by action (visits, clicks, conversions), then as given.

  Args, all [E]: user, poi, creative: ids, creative -1 for none; time: minutes; action: VISIT, CLICK or CONVERSION.
  """
  key = _key(user, time)
  order = np.lexsort((action, key))
  return Events(
    key=key[order],
    user=np.asarray(user, np.int32)[order],
    time=np.asarray(time, np.int64)[order],
    poi=np.asarray(poi, np.int32)[order],
    creative=np.asarray(creative, np.int32)[order],
    action=np.asarray(action, np.int32)[order],
  )


def visit_events(behaviour) -> Events:
  """Returns the Events of visits alone; `behaviour` has user, poi and time, [E] each."""
  visits = len(behaviour.user)
  return sort_events(behaviour.user, behaviour.time, behaviour.poi, np.full(visits, -1), np.full(visits, VISIT))


def visits_and_clicks(behaviour, requests, logs) -> Events:
  """Returns the Events of visits and of clicks on shown lists; a click's time is its request's.

  A click carries the creative when the creative was clicked as well. A conversion takes its click's place.

  Args: behaviour: user, poi and time, [E] each; requests: user, time [n] and candidates [n, C]; logs [n, K]:
    shown_item, shown_creative, click, creative_click, conversion.
  """
  row, position = np.nonzero(logs["click"])  # row-major: the list's order within a request
  item = logs["shown_item"][row, position]
  creative = np.where(logs["creative_click"][row, position] > 0, logs["shown_creative"][row, position], -1)
  visits = len(behaviour.user)
  return sort_events(
    user=np.concatenate([behaviour.user, requests["user"][row]]),
    time=np.concatenate([behaviour.time, requests["time"][row]]),
    poi=np.concatenate([behaviour.poi, requests["candidates"][row, item]]),
    creative=np.concatenate([np.full(visits, -1), creative]),
    action=np.concatenate([np.full(visits, VISIT), np.where(logs["conversion"][row, position] > 0, CONVERSION, CLICK)]),
  )


def history_columns(events: Events, user, time, length):
  """Returns the history columns [B, H] of requests by `user` i[B] at `time` i[B]: the last `length` events before.

  Oldest first and right-aligned; padding has POI -1, creative -1, action 0, hour 0, age 0. Age is in hours.
  """
  index = events.first_at_or_after(user, time)[:, None] + np.arange(-length, 0)
  index = np.where(index >= events.span_of(user)[0][:, None], index, len(events.key))  # E points at the padding
  take = lambda values, padding: np.append(values, np.asarray(padding, values.dtype))[index]
  age = (np.asarray(time, np.int64)[:, None] - take(events.time, 0)) / 60
  return {
    "history_poi": take(events.poi, -1),
    "history_creative": take(events.creative, -1),
    "history_action": take(events.action, 0),
    "history_hour": take(hour_of_week(events.time).astype(np.int32), 0),
    "history_age": np.where(index < len(events.key), age, 0).astype(np.float32),
  }


def last_visit(visits: Events, user, time):
  """Returns i64[B]: the index in `visits` of the last one of `user` before `time`, -1 if there is none."""
  index = visits.first_at_or_after(user, time) - 1
  return np.where(index >= visits.span_of(user)[0], index, -1)


def next_pois(visits: Events, user, time, count, before=None):
  """Returns i32[B, T]: the next `count` POIs that `user` visits at or after `time`, -1 padded.

  Args:
    before: i64[B] or None; visits at or after it are withheld (the cut, for training requests).
  """
  index = visits.first_at_or_after(user, time)[:, None] + np.arange(count)
  present = index < visits.span_of(user)[1][:, None]
  index = np.where(present, index, len(visits.key))
  if before is not None:
    present &= np.append(visits.time, 0)[index] < np.asarray(before)[:, None]
  return np.where(present, np.append(visits.poi, -1)[index], -1).astype(np.int32)
