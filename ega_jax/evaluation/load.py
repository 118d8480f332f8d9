"""Equal ad load: the knob of a system at which it shows a given share of ads, and the frontier over the knob."""

import dataclasses
import math

import numpy as np

from ega_jax.evaluation.systems import at_items
from ega_jax.systems.balance import find_knob


@dataclasses.dataclass(frozen=True)
class LoadResult:
  """Where the search ended."""

  knob: float
  share: float  # ad share at `knob`
  met: bool  # |share - target| <= tolerance
  tried: tuple  # (knob, share) pairs in the order tried


def equal_load(share_of, target, low, high, *, tolerance=0.01, max_trials=24, scale="log", start=None):
  """Returns the LoadResult whose ad share is nearest `target`: `find_knob` of a monotone knob.

  Our decision: every system's knob (its organic weight) is set on validation to the logging policy's mean ad share
  +- .01 before systems are compared. The share is a step function of the knob on finite data: `met` says whether the
  tolerance was reached.

  Args: share_of: knob -> mean ad share in [0, 1], monotone either way; low < high bracket the knob; scale "log"
    (positive knobs) or "linear"; start: a knob near the answer, if one is known.
  Raises: ValueError if the bracket is not one, or the target share lies outside what its ends reach.
  """
  if scale not in ("log", "linear"):
    raise ValueError(f"scale={scale!r}; allowed: 'log', 'linear'")
  if not (low < high and math.isfinite(high) and (scale == "linear" or low > 0)):
    raise ValueError(f"low={low}, high={high}; allowed: finite low < high, positive for a log scale")
  tried = find_knob(share_of, target, low, high, tolerance=tolerance, max_trials=max_trials, scale=scale, start=start)
  knob, found = min(tried, key=lambda pair: abs(pair[1] - target))
  return LoadResult(knob, found, abs(found - target) <= tolerance, tuple(tried))


def logged_ad_share(logs):
  """Returns the logging policy's mean ad share, the target of `equal_load`: ads / displayed items of the logs.

  Args: logs: shown_item i[n, K] (-1 absent), explored bool[n], is_ad bool[n, C]. Exploration is not the policy's choice
  and is left out.
  """
  shown = np.asarray(logs["shown_item"])[~np.asarray(logs["explored"], bool)]
  is_ad = np.asarray(logs["is_ad"], bool)[~np.asarray(logs["explored"], bool)]
  return float(at_items(is_ad, shown, False).sum() / (shown >= 0).sum())


def frontier(figures_of, knobs):
  """Returns one dict per knob, {"knob": float, **figures_of(knob)}, ordered by ad share."""
  points = [{"knob": float(knob)} | dict(figures_of(knob)) for knob in knobs]
  return sorted(points, key=lambda point: point["ad_share"])
