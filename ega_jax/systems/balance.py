"""The knob at which a system shows a given share of ads: few trials, since each is an allocation of many requests."""

import math

import numpy as np


def find_knob(share_of, target, low, high, *, tolerance, max_trials=24, scale="log", start=None):
  """Returns the (knob, share) pairs tried, in order; the one nearest the target is the answer.

  False position in a bracket, with a midpoint every second trial: the share is a step function of the knob on finite
  data, flat far from the target, where interpolation alone would creep.

  Args: share_of: knob -> mean ad share in [0, 1], monotone either way; low < high bracket the knob; scale "log"
    (positive knobs) or "linear"; start: a knob near the answer, from which a bracket is grown; the ends come later.
  Raises: ValueError if the target share lies outside what the bracket's ends reach.
  """
  into, back = (math.log, math.exp) if scale == "log" else (float, float)
  tried = []

  def gap(place):
    tried.append((back(place), float(share_of(back(place)))))
    return tried[-1][1] - target

  low, high, first, last = into(low), into(high), None, None
  if start is not None:
    low, high, first, last = _grow(gap, into(start), low, high, tolerance)
    if min(abs(share - target) for _, share in tried) <= tolerance:
      return tried
  first = gap(low) if first is None else first
  last = gap(high) if last is None else last
  if not min(first, last) - tolerance <= 0 <= max(first, last) + tolerance:
    raise ValueError(
      f"target ad share {target} is out of reach: knobs {back(low)} and {back(high)} give {first + target} and "
      f"{last + target}"
    )
  while len(tried) < max_trials and min(abs(share - target) for _, share in tried) > tolerance:
    step = 0.5 if len(tried) % 2 or first == last else float(np.clip(first / (first - last), 0.05, 0.95))
    middle = low + step * (high - low)
    found = gap(middle)
    if (found > 0) == (first > 0):
      low, first = middle, found
    else:
      high, last = middle, found
  return tried


def _grow(gap, start, low, high, tolerance):
  """Returns (low, high, gap at low or None, gap at high or None): a bracket grown from `start`, doubling its width.

  A share that falls in the knob (an organic weight) is assumed for the direction; if it rises, the walk ends at an end
  of the outer bracket, which is then searched whole.
  """
  here, found, width = start, gap(start), 0.2
  while abs(found) > tolerance:
    there = here + width if found > 0 else here - width
    if not low < there < high:
      return low, high, None, None
    after = gap(there)
    if (after > 0) != (found > 0) or abs(after) <= tolerance:
      return (here, there, found, after) if there > here else (there, here, after, found)
    here, found, width = there, after, 2 * width
  return here, here, found, found


def balance(share_of, target, low=1e-3, high=1e3, *, tolerance=1e-4, max_trials=40, start=None):
  """Returns the organic weight at which share_of(weight) is nearest `target`; an end where it is out of reach."""
  try:
    tried = find_knob(share_of, target, low, high, tolerance=tolerance, max_trials=max_trials, start=start)
  except ValueError:
    return min((low, high), key=lambda end: abs(share_of(end) - target))
  return min(tried, key=lambda pair: abs(pair[1] - target))[0]
