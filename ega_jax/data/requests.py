"""Requests as JSON lines: read, checked and turned into request columns; and written from prepared data.

A line is one object:
  {"id": "any text",                                  optional, comes back in the answer; default: the line's number
   "user": 12, "place": [1.5, -0.3], "hour": 37,      a known user, kilometres, hour of the week 0..167
   "history": [{"poi": 4, "action": "visit", "hour": 30, "age": 7.0}, ...],   oldest first; age in hours before now
   "successors": [{"poi": 9, "count": 3}, ...],       optional: what followed the last visited POI, in any visits
   "candidates": [{"poi": 5}, {"poi": 7, "is_ad": true, "bid": 1.2, "value_mu": 0.1}, ...]}
An event's action is "visit", "click" or "conversion"; a click may name its "creative". Organic candidates stand in
their fixed order and have no bid. A bid is per click; value_mu, the location of the value's lognormal, is 0 if absent.
Both are bounded by what a model's token weights can hold (Limits).
"""

import dataclasses
import json
import math

import numpy as np

from ega_jax.data.examples import HISTORY, SUCCESSORS
from ega_jax.types import CLICK, CONVERSION, VISIT

ACTIONS = {"visit": VISIT, "click": CLICK, "conversion": CONVERSION}
_FIELDS = {
  "request": ({"user", "place", "hour", "candidates"}, {"id", "history", "successors"}),
  "event": ({"poi", "action", "hour", "age"}, {"creative"}),
  "successor": ({"poi", "count"}, set()),
  "candidate": ({"poi"}, {"is_ad", "bid", "value_mu"}),
}  # kind of object: (fields it must have, fields it may have)
_FLOAT = 3e38  # largest number taken: columns are float32
_FAR = 1e6  # kilometres: squares of distances must be float32 too


@dataclasses.dataclass(frozen=True)
class Limits:
  """What ids and sizes a trained model allows."""

  num_pois: int
  num_users: int
  creative_poi: np.ndarray  # i32[Q]  whose creative each one is
  list_length: int
  largest_bid: float = _FLOAT  # whose weight float32 holds
  value_mu: tuple[float, float] = (-_FLOAT, _FLOAT)  # least and largest, likewise


@dataclasses.dataclass(frozen=True)
class Requests:
  """R checked requests: columns of types.Request, and how to name things in an answer."""

  ids: list  # R ids
  columns: dict  # {field of types.Request: [R, ...]}
  position: np.ndarray  # i32[R, C]  place in its line of each candidate of `columns`, which have organic items first


class _Line:
  """Checks one line; every refusal names file, line, field, value and what is allowed."""

  def __init__(self, where, limits):
    self.where, self.limits = where, limits

  def refuse(self, field, value, allowed):
    """Raises ValueError."""
    raise ValueError(f"{self.where}: {field} is {json.dumps(value, default=str)}; allowed: {allowed}")

  def fields(self, kind, value, field):
    """Returns `value`, a dict with the fields of its kind and no others."""
    must, may = _FIELDS[kind]
    if not isinstance(value, dict):
      self.refuse(field, value, f"an object with {', '.join(sorted(must))}")
    for name in sorted(set(value) - must - may):
      self.refuse(f"{field}.{name}", value[name], f"no such field; known: {', '.join(sorted(must | may))}")
    for name in sorted(must - set(value)):
      self.refuse(f"{field}.{name}", None, "a value: it must be there")
    return value

  def whole(self, field, value, low, high):
    """Returns an integer in low..high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
      self.refuse(field, value, f"a whole number, {low}..{high}")
    return value

  def number(self, field, value, low=-_FLOAT, high=_FLOAT):
    """Returns a finite float in low..high."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
      bounds = [f", at least {low:g}"] * (low > -_FLOAT) + [f", at most {high:g}"] * (high < _FLOAT)
      self.refuse(field, value, "a finite number" + "".join(bounds))
    return float(value)

  def many(self, field, value):
    """Returns a list."""
    if not isinstance(value, list):
      self.refuse(field, value, "a list")
    return value

  def poi(self, field, value):
    """Returns a known POI."""
    return self.whole(field, value, 0, self.limits.num_pois - 1)


def read_requests(path, limits) -> Requests:
  """Returns the Requests of a file with one JSON object per line; blank lines are skipped.

  Raises:
    ValueError: naming file, line, field, value and what is allowed, for anything that a model cannot be given.
  """
  with open(path, encoding="utf-8-sig") as file:
    try:
      lines = [(number, text) for number, text in enumerate(file, 1) if text.strip()]
    except UnicodeDecodeError as error:
      raise ValueError(f"{path}: not UTF-8 text ({error})") from error
  if not lines:
    raise ValueError(f"{path}: no requests; allowed: one JSON object per line")
  parsed = [_request(f"{path}, line {number}", number, text, limits) for number, text in lines]
  width = max(len(rows["candidates"]) for _, rows, _ in parsed)
  columns = {name: np.stack([_padded(name, rows[name], width) for _, rows, _ in parsed]) for name in parsed[0][1]}
  position = np.stack([_padded("position", order, width) for _, _, order in parsed])
  return Requests([name for name, _, _ in parsed], columns, position)


def _request(where, number, text, limits):
  """Returns (id, {column: array of one request}, order): order[i] is the place in the line of candidate i."""
  check = _Line(where, limits)
  try:
    found = json.loads(text)
  except (ValueError, RecursionError) as error:  # no JSON, a number of thousands of digits, brackets in brackets
    raise ValueError(f"{where}: not JSON, or truncated ({error}); allowed: one JSON object") from error
  check.fields("request", found, "request")
  place = check.many("place", found["place"])
  if len(place) != 2:
    check.refuse("place", place, "two numbers, kilometres")
  rows = {
    "user": np.int32(check.whole("user", found["user"], 0, limits.num_users - 1)),
    "place": np.array([check.number(f"place[{i}]", x, -_FAR, _FAR) for i, x in enumerate(place)], np.float32),
    "hour": np.int32(check.whole("hour", found["hour"], 0, 167)),
  }
  rows |= _history(check, check.many("history", found.get("history", [])))
  rows |= _successors(check, check.many("successors", found.get("successors", [])))
  candidates, order = _candidates(check, check.many("candidates", found["candidates"]))
  name = found.get("id", number)
  if not isinstance(name, str | int):
    check.refuse("id", name, "a text or a whole number")
  return name, rows | candidates, order


def _history(check, events):
  """Returns the five history columns [HISTORY]: the newest events, right-aligned."""
  columns = {name: np.zeros(HISTORY, np.int32) for name in ("history_action", "history_hour")}
  columns |= {name: np.full(HISTORY, -1, np.int32) for name in ("history_poi", "history_creative")}
  columns["history_age"] = np.zeros(HISTORY, np.float32)
  last = math.inf
  for i, event in enumerate(events):
    field = f"history[{i}]"
    check.fields("event", event, field)
    if not isinstance(event["action"], str) or event["action"] not in ACTIONS:
      check.refuse(f"{field}.action", event["action"], ", ".join(ACTIONS))
    age = check.number(f"{field}.age", event["age"], 0.0)
    if age > last:
      check.refuse(f"{field}.age", age, f"at most {last:g}, the age of the event before: oldest first")
    last = age
    row = (check.poi(f"{field}.poi", event["poi"]), _creative(check, field, event), ACTIONS[event["action"]],
           check.whole(f"{field}.hour", event["hour"], 0, 167), age)  # fmt: skip
    place = HISTORY - len(events) + i
    for name, value in zip(("poi", "creative", "action", "hour", "age"), row, strict=True):
      if place >= 0:
        columns[f"history_{name}"][place] = value
  return columns


def _creative(check, field, event):
  creative = event.get("creative")
  if creative is None:
    return -1
  if event["action"] == "visit":
    check.refuse(f"{field}.creative", creative, "none for a visit")
  check.whole(f"{field}.creative", creative, 0, len(check.limits.creative_poi) - 1)
  owner = int(check.limits.creative_poi[creative])
  if owner != event["poi"]:
    check.refuse(f"{field}.creative", creative, f"a creative of POI {event['poi']}; that one is of POI {owner}")
  return creative


def _successors(check, entries):
  """Returns the two successor columns [SUCCESSORS]."""
  if len(entries) > SUCCESSORS:
    check.refuse("successors", f"{len(entries)} entries", f"at most {SUCCESSORS}")
  poi, count = np.full(SUCCESSORS, -1, np.int32), np.zeros(SUCCESSORS, np.float32)
  for i, entry in enumerate(entries):
    check.fields("successor", entry, f"successors[{i}]")
    poi[i] = check.poi(f"successors[{i}].poi", entry["poi"])
    count[i] = check.number(f"successors[{i}].count", entry["count"], 0.0)
  return {"successor_poi": poi, "successor_count": count}


def _candidates(check, entries):
  """Returns ({column: [n]}, order i32[n]): organic candidates first, each kind in the order of the line."""
  if len(entries) < check.limits.list_length:
    check.refuse("candidates", f"{len(entries)} entries", f"at least {check.limits.list_length}, the length of a list")
  seen, rows = {}, []
  for i, entry in enumerate(entries):
    field = f"candidates[{i}]"
    check.fields("candidate", entry, field)
    poi = check.poi(f"{field}.poi", entry["poi"])
    if poi in seen:
      check.refuse(f"{field}.poi", poi, f"every POI once; it is candidates[{seen[poi]}] already")
    seen[poi] = i
    rows.append((poi, *_advert(check, field, entry)))
  order = np.array(sorted(range(len(rows)), key=lambda i: rows[i][1]), np.int32)  # stable: organic first
  columns = zip(*[rows[i] for i in order], strict=True)
  types = {"candidates": np.int32, "is_ad": bool, "bid": np.float32, "value_mu": np.float32}
  return {name: np.array(x, dtype) for (name, dtype), x in zip(types.items(), columns, strict=True)}, order


def _advert(check, field, entry):
  """Returns (is_ad, bid, value_mu) of a candidate."""
  is_ad = entry.get("is_ad", False)
  if not isinstance(is_ad, bool):
    check.refuse(f"{field}.is_ad", is_ad, "true or false")
  if is_ad and "bid" not in entry:
    check.refuse(f"{field}.bid", None, "a finite number, at least 0: an ad has a bid")
  bid = check.number(f"{field}.bid", entry.get("bid", 0.0), 0.0, check.limits.largest_bid)
  mu = check.number(f"{field}.value_mu", entry.get("value_mu", 0.0), *(check.limits.value_mu if is_ad else ()))
  for name, value in (("bid", bid), ("value_mu", mu)):
    if value and not is_ad:
      check.refuse(f"{field}.{name}", value, "none for an organic item")
  return is_ad, bid, mu


def _padded(name, values, width):
  """Returns candidate columns padded to `width`, others as they are."""
  padding = {"candidates": -1, "position": -1, "is_ad": False, "bid": 0, "value_mu": 0}
  if name not in padding:
    return values
  return np.pad(values, (0, width - len(values)), constant_values=padding[name])


def request_line(columns, row) -> str:
  """Returns one request of columns {field: [R, ...]} as a JSON line that `read_requests` reads back to the same."""
  one = {name: np.asarray(values[row]).tolist() for name, values in columns.items()}
  names = {value: name for name, value in ACTIONS.items()}
  history = []
  for poi, creative, action, hour, age in zip(
    *(one[f"history_{name}"] for name in ("poi", "creative", "action", "hour", "age")), strict=True
  ):
    if poi >= 0:
      event = {"poi": poi, "action": names[action], "hour": hour, "age": age}
      history.append(event | ({"creative": creative} if creative >= 0 else {}))
  followers = zip(one["successor_poi"], one["successor_count"], strict=True)
  candidates = []
  for poi, is_ad, bid, mu in zip(one["candidates"], one["is_ad"], one["bid"], one["value_mu"], strict=True):
    if poi >= 0:
      candidates.append({"poi": poi} | ({"is_ad": True, "bid": bid, "value_mu": mu} if is_ad else {}))
  request = {name: one[name] for name in ("user", "place", "hour")} | {"history": history}
  request["successors"] = [{"poi": poi, "count": count} for poi, count in followers if poi >= 0]
  return json.dumps(request | {"candidates": candidates})
