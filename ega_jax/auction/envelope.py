"""The click probability of one ad as a step function of its own (virtual) bid: the upper envelope of the lists' lines.

With the others fixed, list A scores c_A + phi * theta_A. The maximum over lists is convex in phi and its slope, the
ad's click probability, can only rise: exact breakpoints instead of quadrature. numpy, float64.
"""

import numpy as np


def upper_envelope(intercept, slope):
  """Returns (breaks f[R, M], slopes f[R, M]) of max_A c_A + phi theta_A: from breaks[m] on, the slope is slopes[m].

  Breaks fall from left to right; the last segment of each row starts at -inf, and padding repeats it.

  Args:
    intercept: f[R, L], c_A; -inf for a list that may not be chosen.
    slope: f[R, L] or f[L], theta_A >= 0.
  """
  intercept = np.asarray(intercept, np.float64)
  slope = np.broadcast_to(np.asarray(slope, np.float64), intercept.shape)
  possible = np.isfinite(intercept)
  top = np.where(possible, slope, -1.0).max(-1)
  height = np.where(possible & (slope == top[:, None]), intercept, -np.inf).max(-1)
  breaks, slopes = [], []
  rows = np.arange(len(intercept))
  while True:
    # The next segment to the left is the flatter line that is met first; among those met together, the flattest.
    fall = top[rows, None] - slope[rows]
    flatter = (fall > 0) & possible[rows]
    met = np.where(flatter, (intercept[rows] - height[rows, None]) / np.where(flatter, fall, 1.0), -np.inf)
    first = met.max(-1, initial=-np.inf)
    level = np.full(len(intercept), -np.inf)
    level[rows] = first
    breaks.append(level)
    slopes.append(top.copy())
    rows_left = np.isfinite(first)
    if not rows_left.any():
      return np.stack(breaks, -1), np.stack(slopes, -1)
    here = met[rows_left] == first[rows_left, None]
    rows = rows[rows_left]
    flattest = np.where(here, slope[rows], np.inf).argmin(-1)
    top[rows], height[rows] = slope[rows, flattest], intercept[rows, flattest]


def threshold_payment(breaks, slopes, lowest, virtual, inverse):
  """Returns the Myerson payment f[R, G] of bids whose virtual values are `virtual`: sum of z(t_m) (theta_m -
  theta_m-1).

  Args:
    breaks: f[R, M] of `upper_envelope`.
    slopes: f[R, M].
    lowest: f[], virtual value of the support's lowest value: no step is charged less than the lowest value.
    virtual: f[R, G].
    inverse: function of virtual values: the least value with that virtual value.
  """
  step = slopes - np.concatenate([slopes[:, 1:], slopes[:, -1:]], axis=-1)
  step[:, -1] = slopes[:, -1]
  threshold = np.maximum(breaks, lowest)
  money = np.where(step > 0, inverse(np.where(np.isfinite(threshold), threshold, 0.0)), 0.0)
  charged = np.where((step > 0) & np.isfinite(threshold), money * step, 0.0)
  paid = np.zeros(np.shape(virtual))
  for m in range(breaks.shape[-1]):
    paid += np.where(threshold[:, m, None] <= virtual, charged[:, m, None], 0.0)
  return paid
