"""Equal ad load: the knob at which a system shows a given share of ads, in few trials, each being many allocations."""

import dataclasses
import math

import numpy as np

from ega_jax.systems.merge import ad_share

TOLERANCE = 0.001  # of the ad share, when systems are compared: .01 moves welfare by 2%
NEAR = 0.003  # of the ad share, where what follows starts from it and sets it again
LOADS = (-50.0, 200.0)  # slot prices in median bids between which the knob of the ad load is sought


@dataclasses.dataclass(frozen=True)
class Load:
  """Where the search ended."""

  knob: float
  share: float  # ad share at `knob`
  met: bool  # |share - target| <= tolerance
  tried: tuple  # (knob, share) pairs in the order tried
  slope: float | None = None  # of the share by the place of the knob on its scale, near `knob`; None from one trial


def equal_load(share_of, target, low, high, *, tolerance=TOLERANCE, max_trials=24, scale="log", start=None,
               slope=None):  # fmt: skip
  """Returns the Load whose ad share is nearest `target`; an end of the bracket where the target is out of reach.

  False position with a midpoint every second trial: on finite data the share is a step function of the knob, flat far
  from the target, where interpolation alone would creep.

  Args: share_of: knob -> mean ad share in [0, 1], monotone either way; low < high bracket the knob; scale "log"
    (positive knobs) or "linear"; start: a knob near the answer, around which a bracket is sought first; slope: of the
    share there, if it is known.
  Raises: ValueError if the bracket is not one.
  """
  if scale not in ("log", "linear"):
    raise ValueError(f"scale={scale!r}; allowed: 'log', 'linear'")
  if not (low < high and math.isfinite(high) and (scale == "linear" or low > 0)):
    raise ValueError(f"low={low}, high={high}; allowed: finite low < high, positive for a log scale")
  into, back = (math.log, math.exp) if scale == "log" else (float, float)
  tried = []

  def gap(place):
    tried.append((back(place), float(share_of(back(place)))))
    return tried[-1][1] - target

  met = lambda: min((abs(share - target) for _, share in tried), default=math.inf) <= tolerance
  ends = [(into(low), None), (into(high), None)]
  if start is not None:
    ends = _grow(gap, into(start), *ends, tolerance, slope)
  if not met():
    ends = [(place, gap(place) if found is None else found) for place, found in ends]
    _close(gap, met, tried, max_trials, *ends)
  knob, found = min(tried, key=lambda pair: abs(pair[1] - target))
  return Load(knob, found, abs(found - target) <= tolerance, tuple(tried), _slope(tried, into, target))


def _slope(tried, into, target):
  """Returns the slope between the two trials nearest to the target, None where they do not tell."""
  (knob, share), *others = sorted(tried, key=lambda pair: abs(pair[1] - target))
  other = next((pair for pair in others if pair[0] != knob and pair[1] != share), None)
  return None if other is None else (other[1] - share) / (into(other[0]) - into(knob))


def _close(gap, met, tried, max_trials, low, high):
  """Narrows the bracket of (place, gap) pairs until a trial meets the target; at once if they bracket nothing."""
  while low[1] * high[1] < 0 and not met() and len(tried) < max_trials:
    step = 0.5 if len(tried) % 2 else float(np.clip(low[1] / (low[1] - high[1]), 0.05, 0.95))
    middle = low[0] + step * (high[0] - low[0])
    found = gap(middle)
    low, high = ((middle, found), high) if found * low[1] > 0 else (low, (middle, found))


def _grow(gap, start, low, high, tolerance, slope=None):
  """Returns the ends [(place, gap or None if unknown)] * 2 of a bracket grown from `start` by steps that double; the
  first goes somewhat further than the `slope`, if it is known, says.

  The direction is that of a share that falls in the knob, as in a slot price; where none is met on the way to an
  end, the outer bracket is returned.
  """
  here = (start, gap(start))
  width = 1.5 * abs(here[1] / slope) if slope else 0.2
  while abs(here[1]) > tolerance:
    place = here[0] + math.copysign(width, here[1])
    if not low[0] < place < high[0]:
      return [low, high]
    there = (place, gap(place))
    if there[1] * here[1] <= 0:
      return sorted([here, there])
    here, width = there, 2 * width
  return [here, here]


def logged_ad_share(logs):
  """Returns the logging policy's mean ad share, at which every system is compared: ads / displayed items of the logs.

  Args: logs: shown_item i[n, K] (-1 absent), explored bool[n], is_ad bool[n, C]. Exploration is not the policy's choice
  and is left out.
  """
  chosen = ~logs["explored"]
  return float(ad_share(logs["shown_item"][chosen][:, None], logs["is_ad"][chosen]))


def balanced_knob(*arguments, **settings):
  """Returns the knob of `balanced_load`."""
  return balanced_load(*arguments, **settings).knob


def balanced_load(system, columns, target, chunk, list_length, *, bracket=LOADS, tolerance=TOLERANCE, shading=1.0,
                  fine=None, slope=None, say=lambda text: None):  # fmt: skip
  """Returns the Load at which a system of lists of K = list_length shows a share `target` of ads, within a `bracket`.

  The search starts at the knob that the system has; a bracket of positive knobs is searched by their logarithm. No
  tolerance is less than half of the steps in which the share of so many lists moves. Out of reach (an oracle keeps some
  ads at any price: they lift their neighbours) it is the nearer end.

  Args: columns, chunk, shading: of `mean_ad_share`; fine: columns of more requests, on which the search ends once it is
    near on the others; slope: of an earlier Load of the system; say: told of every trial.
  """

  def share(knob, some):
    found = mean_ad_share(system.with_knob(knob), some, chunk, shading)
    say(f"ad load: knob {knob:.4f}, share {found:.4f} for {target:.4f} on {len(some['is_ad'])} requests")
    return found

  def search(some, tolerance, **near):
    least = 0.5 / (len(some["is_ad"]) * list_length)
    scale = "log" if bracket[0] > 0 else "linear"
    return equal_load(
      lambda knob: share(knob, some), target, *bracket, tolerance=max(tolerance, least), scale=scale, max_trials=16,
      **near,
    )  # fmt: skip

  if fine is None:
    return search(columns, tolerance, start=system.knob, slope=slope)
  found = search(columns, max(tolerance, NEAR), start=system.knob, slope=slope)
  return search(fine, tolerance, start=found.knob, slope=found.slope) if found.met else found


def mean_ad_share(system, columns, chunk, shading=1.0):
  """Returns the share of ads among the entries of the lists that a system shows at `shading` times the logged bids.

  Args: columns: request columns [n, ...], n a multiple of `chunk`, the requests allocated at once.
  """
  items = []
  for start in range(0, len(columns["is_ad"]), chunk):
    batch = {name: column[start : start + chunk] for name, column in columns.items()}
    bids = np.float32(shading) * np.asarray(batch["bid"], np.float32)[:, None]
    items.append(np.asarray(system.allocate(batch, bids).items))
  return float(ad_share(np.concatenate(items), columns["is_ad"]))
