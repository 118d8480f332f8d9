"""The click probability of one ad as a step function of its own (virtual) bid: the upper envelope of the lists' lines.

With the others fixed, list A scores c_A + phi * theta_A. The maximum over lists is convex in phi and its slope, the
ad's click probability, can only rise: exact breakpoints instead of quadrature. numpy, float64.
"""

import numpy as np


def upper_envelope(intercept, slope, start=None):
  """Returns (breaks f[R, M], slopes f[R, M], lines i[R, M]) of max_A c_A + phi theta_A, from the right to the left.

  From breaks[m] on, up to breaks[m - 1], line lines[m] is on top and the slope is slopes[m]. The last segment of a row
  starts at -inf; padding repeats it.

  Args:
    intercept: f[R, L], c_A; -inf for a list that may not be chosen.
    slope: f[L], theta_A >= 0.
    start: i[R], the line to start from (the chosen list, if what lies to its right is of no interest); None: the
      steepest.
  """
  order = np.argsort(slope, kind="stable")
  intercept, slope = np.asarray(intercept, np.float64)[:, order], np.asarray(slope, np.float64)[order]
  line = _steepest(intercept, slope) if start is None else np.argsort(order, kind="stable")[start]
  rows = np.arange(len(intercept))
  levels, visited = [], []
  while True:
    level, following = np.full(len(intercept), -np.inf), line.copy()
    flatter = int(np.searchsorted(slope, slope[line[rows]].max(initial=0.0)))
    if flatter:
      current = line[rows]
      # The flatter line that is met first: the least drop in height per drop in slope; exact ties go to the flattest.
      fall = slope[current][:, None] - slope[:flatter]
      ratio = intercept[rows, current][:, None] - intercept[rows, :flatter]
      ratio = np.divide(ratio, fall, out=np.full(fall.shape, np.inf), where=fall > 0)
      met = ratio.argmin(-1)
      level[rows], following[rows] = -ratio[np.arange(len(rows)), met], met
    levels.append(level if not levels else np.minimum(level, levels[-1]))
    visited.append(line)
    rows = rows[np.isfinite(level[rows])]
    if not len(rows):
      lines = np.stack(visited, -1)
      return np.stack(levels, -1), slope[lines], order[lines]
    line = np.where(np.isfinite(level), following, line)


def _steepest(intercept, slope):
  """Returns i[R]: of the lines that may be chosen, the steepest; of equal ones, the highest."""
  top = np.where(np.isfinite(intercept), slope, -1.0).max(-1, keepdims=True)
  return np.where(slope == top, intercept, -np.inf).argmax(-1)


def segment_of(breaks, virtual):
  """Returns i[R, G]: the segment on top at each virtual value f[R, G]; at a break itself the flatter one."""
  return np.minimum((breaks[:, None, :] >= np.asarray(virtual)[..., None]).sum(-1), breaks.shape[-1] - 1)


def threshold_payment(breaks, slopes, segment, inverse, lowest):
  """Returns the Myerson payment f[R, G] of bids on a segment: sum over the steps up to it of z(t) * (rise of slope).

  Args:
    breaks: f[R, M] of `upper_envelope`.
    slopes: f[R, M].
    segment: i[R, G] of `segment_of`.
    inverse: function of virtual values: the least value with that virtual value.
    lowest: the support's lowest value, charged for what is won already there.
  """
  rise = slopes - np.concatenate([slopes[:, 1:], np.zeros((len(slopes), 1))], axis=-1)
  value = np.full(breaks.shape, float(lowest))
  inside = np.isfinite(breaks) & (rise > 0)
  value[inside] = np.maximum(inverse(breaks[inside]), lowest)
  # Everything at or to the left of the bid's segment has been paid for.
  paid = np.cumsum((value * rise)[:, ::-1], axis=-1)[:, ::-1]
  return np.take_along_axis(paid, segment, axis=-1)
