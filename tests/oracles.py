"""Slow independent oracles of the auction tests: plain loops over the definitions, no code of the package."""

import itertools
import math

import numpy as np


def theta(spec, shown):
  """Returns the click probability of every ad (a list of floats) in the list `shown`, from a market's JSON object."""
  result = [0.0] * len(spec["quality"])
  externality = spec.get("externality", {})
  for slot, i in enumerate(shown):
    influence = 0.0
    for other, j in enumerate(shown):
      if j == i or "similarity" not in spec:
        continue
      distance = abs(slot - other)
      strength = externality["above"] if other < slot else externality["below"]
      influence += strength * externality["decay"] ** (distance - 1) * spec["similarity"][i][j]
    result[i] = spec["quality"][i] * spec["position"][slot] * math.exp(influence)
  return result


def lists(num_ads, slots):
  """Returns every ordered list of length 0..slots, as tuples."""
  return [order for k in range(slots + 1) for order in itertools.permutations(range(num_ads), k)]


def best(spec, weights):
  """Returns (score, theta) of the best list; an ad of weight -inf may not be shown; ties to the first list."""
  top = (-math.inf, None)
  for shown in lists(len(spec["quality"]), spec["slots"]):
    if any(weights[i] == -math.inf for i in shown):
      continue
    click = theta(spec, shown)
    score = sum(weights[i] * click[i] for i in shown)
    if score > top[0]:
      top = (score, click)
  return top


def step_integral(curve, bid, steps=400, halvings=30):
  """Returns int_0^bid of a step function of one bid: equal steps, every step with a jump bisected to the end."""
  total, edges = 0.0, np.linspace(0.0, bid, steps + 1)
  for left, right in zip(edges[:-1], edges[1:], strict=True):
    total += _cell(curve, left, right, curve(left), curve(right), halvings)
  return total


def _cell(curve, left, right, at_left, at_right, halvings):
  if abs(at_left - at_right) < 1e-12 or halvings == 0:
    return (right - left) * (at_left + at_right) / 2
  middle = (left + right) / 2
  at_middle = curve(middle)
  return _cell(curve, left, middle, at_left, at_middle, halvings - 1) + _cell(
    curve, middle, right, at_middle, at_right, halvings - 1
  )


def ironed_by_hull(cdf, quantile, virtual_at, points=200_001):
  """Returns ironed phi at values: slopes of the least concave majorant of q -> q F^-1(1 - q), q = 1 - F."""
  share = np.linspace(1e-7, 1 - 1e-7, points)
  revenue = share * quantile(1 - share)
  hull = [0]
  for k in range(1, points):
    while len(hull) > 1:
      i, j = hull[-2], hull[-1]
      if (revenue[j] - revenue[i]) * (share[k] - share[i]) > (revenue[k] - revenue[i]) * (share[j] - share[i]):
        break
      hull.pop()
    hull.append(k)
  slopes = np.diff(revenue[hull]) / np.diff(share[hull])
  place = np.clip(np.searchsorted(share[hull], 1 - cdf(virtual_at)) - 1, 0, len(slopes) - 1)
  return slopes[place]


def regret_by_loops(x, price, nodes, own, value):
  """Returns the best deviation's gain for one ad's curves f[G]."""
  utility = lambda k: (value - price[k]) * x[k]
  return max(utility(k) for k in range(len(nodes))) - utility(own)
