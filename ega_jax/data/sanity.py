"""Sanity figures of a marketplace: neither trivial nor noise. All that can be computed without a neural network."""

import itertools

import numpy as np

from ega_jax.data import market_config

INFINITY = float("inf")
BANDS = {
  "click_rate": (0.03, 0.08),
  "conversion_given_click": (0.05, 0.20),
  "payment_over_bid": (0.4, 0.8),
  "ad_share": (0.2, 0.4),
  "best_order_gain": (0.08, INFINITY),
  "best_creative_gain": (0.15, INFINITY),
  "bid_gain": (0.15, INFINITY),
  "oracle_over_popularity": (1.8, INFINITY),
  "cascade_position": (0.1, 0.9),
  "auc_truth": (0.70, 0.85),
  "auc_true_features": (0.70, 0.85),
  "auc_loss_without_history": (0.03, INFINITY),
  "markov_hit_at_10": (0.15, 0.60),
}
HISTORY_FEATURES = ("interest", "habit", "price", "residual", "match")


def violations(figures):
  """Returns a list of sentences, one per figure outside its band (empty: all is well)."""
  return [
    f"{name} = {figures[name]:.4g}, allowed: {low} to {high}"
    for name, (low, high) in BANDS.items()
    if not low <= figures[name] <= high
  ]


def auc(score, label):
  """Returns the area under the ROC curve of score f[n] for label {0, 1}[n]; ties count half."""
  _, rank, count = np.unique(score, return_inverse=True, return_counts=True)
  average = np.cumsum(count) - (count - 1) / 2
  positive = np.asarray(label, bool)
  wins = average[rank][positive].sum() - positive.sum() * (positive.sum() + 1) / 2
  return float(wins / max(positive.sum() * (~positive).sum(), 1))


def logistic_regression(features, label, steps=12, ridge=1.0):
  """Returns f64[d + 1]: weights (the last is the intercept) by Newton's method; features f[n, d], label [n]."""
  x = np.concatenate([features, np.ones([len(features), 1])], 1)
  weight = np.zeros(x.shape[1])
  for _ in range(steps):
    p = 1 / (1 + np.exp(-np.clip(x @ weight, -30, 30)))
    gradient = x.T @ (label - p) - ridge * weight
    weight = weight + np.linalg.solve((x.T * (p * (1 - p))) @ x + ridge * np.eye(len(weight)), gradient)
  return weight


def _rates(market):
  logs, rows = market.logs, np.arange(len(market.logs["click"]))[:, None]
  is_ad = market.requests["is_ad"][rows, logs["shown_item"]]
  bid = market.requests["bid"][rows, logs["shown_item"]]
  clicks = max(int(logs["click"].sum()), 1)
  return {
    "click_rate": float(logs["click"].mean()),
    "creative_click_rate": float(logs["creative_click"].mean()),
    "conversion_given_click": float(logs["conversion"].sum() / clicks),
    "payment_over_bid": float(np.median(logs["shown_payment"][is_ad] / bid[is_ad])),
    "ad_share": float(is_ad.mean()),
  }


def _clicks(world, rows, items, creatives):
  return world.click_probabilities(rows, items, creatives)[0]


def _best_order_gain(world, rows, items, creatives, rng):
  """Returns best / average - 1 of a list's expected clicks over its orders (best by steepest swaps for K > 5)."""
  length = items.shape[1]
  if length <= 5:
    orders = np.array(list(itertools.permutations(range(length))))
    total = _clicks(world, rows, items[:, orders], creatives[:, orders]).sum(-1)
    return float(total.max(1).sum() / total.mean(1).sum() - 1)
  orders = rng.permuted(np.tile(np.arange(length), (24, 1)), axis=1)
  average = _clicks(world, rows, items[:, orders], creatives[:, orders]).sum(-1).mean(1)
  swaps = np.array([np.arange(length)] + [_swapped(length, i, j) for i, j in itertools.combinations(range(length), 2)])
  row = np.arange(len(rows))
  for _ in range(10):
    total = _clicks(world, rows, items[:, swaps], creatives[:, swaps]).sum(-1)
    best = swaps[total.argmax(1)]
    items, creatives = items[row[:, None], best], creatives[row[:, None], best]
  return float(total.max(1).sum() / average.sum() - 1)


def _swapped(length, i, j):
  order = np.arange(length)
  order[[i, j]] = j, i
  return order


def _best_creative_gain(world, rows, items):
  """Returns creative clicks with every POI's best creative / with a random one - 1, on the shown lists."""
  pois = world.pois(rows, items)
  best = world.click_probabilities(rows, items, world.best_creatives(rows, pois))[1].sum()
  own = world.poi_creatives[pois]
  count, draws = (own >= 0).sum(-1), []
  for shift in range(own.shape[-1]):
    pick = np.take_along_axis(own, ((np.arange(items.shape[1]) + shift) % count)[..., None], -1)[..., 0]
    draws.append(world.click_probabilities(rows, items, pick)[1].sum())
  return float(best / np.mean(draws) - 1)


def _refill(world, rows, items, is_ad, score):
  """Returns the lists with the ad slots refilled by the ads of greatest score f[n, C], organic items unchanged."""
  order = np.argsort(-np.where(is_ad, score, -np.inf), 1, kind="stable")
  slot = np.take_along_axis(is_ad, items, 1)
  rank = np.cumsum(slot, 1) - 1
  return np.where(slot, np.take_along_axis(order, np.maximum(rank, 0), 1), items)


def _welfare(world, rows, items):
  """Returns the sum over ads of value * P(click) on lists with the best creatives, per request."""
  creatives = world.best_creatives(rows, world.pois(rows, items))
  value = world.values(rows)[np.arange(len(rows))[:, None], items] * (items >= 0)
  return float((value * _clicks(world, rows, items, creatives)).sum() / len(rows))


def _oracle(world, rows, items, is_ad, standalone, width=40):
  """Returns lists whose ad slots are filled one by one with the ad that adds most true welfare, from the top."""
  row = np.arange(len(rows))
  values = world.values(rows)
  shortlist = np.argsort(-np.where(is_ad, values * standalone, -np.inf), 1, kind="stable")[:, :width]
  usable = np.take_along_axis(is_ad, shortlist, 1)
  shortlist = np.where(usable, shortlist, -1)  # a request may have fewer ads than that
  slot = np.take_along_axis(is_ad, items, 1)
  current = np.where(slot, -1, items)
  for k in range(items.shape[1]):
    tried = np.repeat(current[:, None], shortlist.shape[1], 1)
    tried[:, :, k] = np.where(slot[:, k, None], shortlist, tried[:, :, k])
    creatives = world.best_creatives(rows, world.pois(rows, tried))
    value = values[row[:, None, None], np.maximum(tried, 0)] * (tried >= 0)
    gain = (value * _clicks(world, rows, tried, creatives)).sum(-1)
    best = np.where(usable, gain, -np.inf).argmax(1)
    current[:, k] = tried[row, best, k]
    usable[row, best] &= ~slot[:, k]
  return current


def _headroom(market, rows):
  """Returns welfare figures; every system fills the logged lists' ad slots, so that all have the same ad load."""
  world, items = market.world, market.logs["shown_item"][rows]
  is_ad, pois = market.requests["is_ad"][rows], np.maximum(market.requests["candidates"][rows], 0)
  standalone = 1 / (1 + np.exp(-world.affinity(rows, pois)))
  values = world.values(rows)
  by_click = _welfare(world, rows, _refill(world, rows, items, is_ad, standalone))
  by_both = _welfare(world, rows, _refill(world, rows, items, is_ad, values * standalone))
  popularity = _welfare(world, rows, _refill(world, rows, items, is_ad, market.catalog.poi_popularity[pois]))
  aware = _welfare(world, rows, _refill(world, rows, items, is_ad, market.catalog.poi_popularity[pois] * values))
  cascade = _welfare(world, rows, items)
  oracle = max(_welfare(world, rows, _oracle(world, rows, items, is_ad, standalone)), by_both)
  return {
    "bid_gain": by_both / by_click - 1,
    "welfare_popularity": popularity,
    "welfare_popularity_and_bid": aware,
    "welfare_cascade": cascade,
    "welfare_oracle": oracle,
    "oracle_over_popularity": oracle / popularity,
    "cascade_position": (cascade - popularity) / (oracle - popularity),
  }


def _learnability(market, rows):
  """Returns AUCs of the true probabilities and of the true features with and without history, on held-out shows."""
  world, items, creatives = market.world, market.logs["shown_item"][rows], market.logs["shown_creative"][rows]
  label, pois = market.logs["click"][rows].ravel(), world.pois(rows, items)
  part = world.components(rows, pois) | {
    "match": world.creative_match(rows, creatives),
    "externality": world.externality(pois),
    "position": np.broadcast_to(np.arange(items.shape[1]), items.shape),
  }
  table = {name: (x.ravel() - x.mean()) / (x.std() + 1e-9) for name, x in part.items()}
  half = len(label) // 2

  def fitted(names):
    x = np.stack([table[name] for name in names], 1)
    weight = logistic_regression(x[:half], label[:half])
    return auc(x[half:] @ weight[:-1], label[half:])

  full = fitted(list(table))
  without = fitted([name for name in table if name not in HISTORY_FEATURES])
  return {
    "auc_truth": auc(_clicks(world, rows, items, creatives).ravel()[half:], label[half:]),
    "auc_true_features": full,
    "auc_without_history": without,
    "auc_loss_without_history": full - without,
  }


def markov_hit_rate(behaviour, cut_time, top=10):
  """Returns the share of visits after the cut among the `top` successors (before the cut) of the last visit."""
  order, start = behaviour.by_user()
  poi, time = behaviour.poi[order], behaviour.time[order]
  follows = np.ones(len(poi), bool)
  follows[start[:-1][np.diff(start) > 0]] = False
  here, there = np.flatnonzero(follows) - 1, np.flatnonzero(follows)
  before = time[there] < cut_time
  num = behaviour.num_pois
  key, count = np.unique(poi[here[before]].astype(np.int64) * num + poi[there[before]], return_counts=True)
  popularity = np.bincount(poi[time < cut_time], minlength=num)
  ranked = np.lexsort([key % num, -popularity[key % num], -count, key // num])
  first = np.searchsorted(key[ranked] // num, np.arange(num))
  place = np.arange(len(ranked)) - first[key[ranked] // num]
  hits = key[ranked][place < top]
  asked = poi[here[~before]].astype(np.int64) * num + poi[there[~before]]
  return float(np.isin(asked, hits).mean())


def figures(market, seed=0, rows=200, impressions_rows=6000):
  """Returns dict of floats: the sanity figures of a Marketplace.

  Args:
    market: data.marketplace.Marketplace.
    seed: of the sampled requests.
    rows: requests for the list figures.
    impressions_rows: requests for the AUCs.
  """
  rng = market_config.stream(seed, "sanity")
  total = len(market.logs["click"])
  plain = np.flatnonzero(~market.logs["explored"])
  chosen = np.sort(rng.permutation(plain)[:rows])
  many = np.sort(rng.permutation(total)[:impressions_rows])
  items, creatives = market.logs["shown_item"][chosen], market.logs["shown_creative"][chosen]
  return {
    **_rates(market),
    "best_order_gain": _best_order_gain(market.world, chosen, items, creatives, rng),
    "best_creative_gain": _best_creative_gain(market.world, chosen, items),
    **_headroom(market, chosen),
    **_learnability(market, many),
    "markov_hit_at_10": markov_hit_rate(market.behaviour, market.cut_time),
  }
