"""Next-POI floors from counts alone: what a learned recommender has to beat, with the same information.

score(POI) = recency + own transitions + Markov + hour kernel, after the memory-based next-basket and next-POI
baselines; the weights are tuned on the validation windows of the city by coordinate search (our decision).
"""

import dataclasses

import numpy as np

from ega_jax.data import pipeline, windows
from ega_jax.evaluation import bootstrap
from ega_jax.systems.next_visits import CUTOFFS, accuracies, target_ranks

_GRID = {
  "half_life": (10.0, 20.0, 40.0, 80.0),
  "own": (0.0, 0.1, 0.3, 1.0, 3.0),
  "markov": (0.0, 0.1, 0.3, 1.0, 3.0),
  "hour": (3.0, 10.0, 20.0, 50.0),
  "hour_width": (0.35, 0.7, 1.0, 2.0),
  "other_day": (0.0, 0.1, 0.3, 0.6),
}
_ROUNDS = 2  # of the coordinate search
_TIE_BREAK = 1e-6  # of popularity: decides between POIs of equal score only


@dataclasses.dataclass(frozen=True)
class FloorWeights:
  """Weights of the count-based score; `hour` = 0 ignores the target's time."""

  half_life: float = 40.0  # of recency, in visits
  own: float = 0.3  # the user's own transitions from the last POI
  markov: float = 0.1  # everybody's transitions from the last POI, as shares
  hour: float = 0.0  # visits at a similar time of day
  hour_width: float = 1.0  # hours, standard deviation of the kernel
  other_day: float = 0.3  # a visit on a weekday counts this much on a weekend, and the other way round


def score_pois(columns, popularity, weights: FloorWeights):
  """Returns f64[W, P]: the score of every POI for windows with history and successor columns [W, ...].

  Args:
    columns: of data.windows; target_time is needed unless weights.hour is 0.
    popularity: f[P], breaks ties.
    weights: of the parts.
  """
  poi, present = columns["history_poi"], columns["history_action"] > 0
  recency = 0.5 ** (np.arange(poi.shape[1])[::-1] / weights.half_life) * present
  before = np.concatenate([np.full((len(poi), 1), -1, poi.dtype), poi[:, :-1]], 1)
  weight = recency * (1 + weights.own * (before == poi[:, -1:]) + weights.hour * _hour_kernel(columns, weights))
  count = columns["successor_count"].astype(np.float64)
  share = count / np.maximum(count.sum(1, keepdims=True), 1)
  num_pois = len(popularity)
  scores = _scatter(poi, weight, num_pois) + _scatter(columns["successor_poi"], weights.markov * share, num_pois)
  return scores + _TIE_BREAK * popularity


def _hour_kernel(columns, weights):
  """Returns f64[W, H]: how similar the time of day of a visit is to the target's."""
  if not weights.hour:
    return 0.0
  now = columns["target_time"][:, None]
  then = now - np.round(60.0 * columns["history_age"]).astype(np.int64)
  apart = np.abs((then - now + 720) % 1440 - 720) / 60
  same_kind_of_day = (columns["history_hour"] >= 120) == (columns["hour"][:, None] >= 120)  # Saturday begins at 120
  return np.exp(-0.5 * (apart / weights.hour_width) ** 2) * np.where(same_kind_of_day, 1.0, weights.other_day)


def _scatter(poi, weight, num_pois):
  """Returns f64[W, P]: sums of `weight` [W, H] per POI; POI -1 counts nowhere."""
  row, position = np.nonzero(poi >= 0)
  flat = row * num_pois + poi[row, position]
  return np.bincount(flat, weight[row, position], len(poi) * num_pois).reshape(len(poi), num_pois)


def floor_ranks(columns, popularity, weights, chunk=512):
  """Returns i64[W]: the target's rank by the count-based score; 0 is first, ties go to the smaller id.

  columns: as in `score_pois`, with target_poi; popularity, weights: likewise; chunk: windows scored at once.
  """
  ranks = []
  for start in range(0, len(columns["row"]), chunk):
    part = {name: values[start : start + chunk] for name, values in columns.items()}
    ranks.append(target_ranks(score_pois(part, popularity, weights), part["target_poi"][:, 0]))
  return np.concatenate(ranks) if ranks else np.zeros(0, np.int64)


def tune(columns, popularity, *, with_time) -> FloorWeights:
  """Returns the weights with the highest acc@1 + acc@5 + acc@10 on `columns` (coordinate search, a small grid)."""
  best = FloorWeights(hour=10.0 if with_time else 0.0)
  names = [name for name in _GRID if with_time or not name.startswith(("hour", "other"))]
  value = lambda weights: sum(accuracies(floor_ranks(columns, popularity, weights)).values())
  best_value = value(best)
  for name in names * _ROUNDS:
    for setting in _GRID[name]:
      trial = dataclasses.replace(best, **{name: setting})
      if (trial_value := value(trial)) > best_value:
        best, best_value = trial, trial_value
  return best


def paired_comparison(ranks, floor, users, **bootstrap_settings):
  """Returns {"acc@k": Interval of acc@k(ranks) - acc@k(floor)}, paired by window and clustered by user.

  Args:
    ranks, floor: i64[W], the target's rank by a model and by the floor that has the same information.
    users: i[W].
  """
  one = np.ones(len(users))
  parts = {f"acc@{k}": [(1.0, (values < k).astype(np.float64), one) for values in (ranks, floor)] for k in CUTOFFS}
  return {name: bootstrap.paired_difference(*pair, users, **bootstrap_settings) for name, pair in parts.items()}


def floors(directory) -> dict | None:
  """Returns the floors of a prepared city on its test windows, None if its source has no windows.

  {"without_time" | "with_time": {"weights", "validation": accuracies, "test": accuracies, "windows"}}; the weights
  are chosen on the validation windows.
  """
  popularity = pipeline.read_catalog(directory).poi_popularity
  splits = {split: pipeline.read_next_poi(directory, split) for split in ("validation", "test")}
  if any(columns is None or not len(columns["row"]) for columns in splits.values()):
    return None
  report = {}
  for name, seen in (("without_time", windows.without_target_time), ("with_time", lambda columns: columns)):
    known = {split: seen(columns) for split, columns in splits.items()}
    weights = tune(known["validation"], popularity, with_time=name == "with_time")
    scored = {split: accuracies(floor_ranks(columns, popularity, weights)) for split, columns in known.items()}
    report[name] = {"weights": dataclasses.asdict(weights), "windows": len(known["test"]["row"])} | scored
  return report
