"""A small synthetic world with toy systems, and slow independent answers about lists and what they score."""

import itertools

import numpy as np

from ega_jax import types

SIGMA = 0.6
ORGANIC, ADS = 6, 4


class ToyWorld:
  """Clicks = quality[row, item] * position * product over the others of (1 - .2 same parity); creatives scale by id."""

  def __init__(self, num_requests=24, num_ads=5, num_organic=3, list_length=3, seed=0, users=8):
    rng = np.random.default_rng(seed)
    self.num_candidates = num_ads + num_organic
    self.list_length = list_length
    self.quality = rng.uniform(0.05, 0.4, (num_requests, self.num_candidates))
    self.position = np.linspace(1.0, 0.5, list_length)
    is_ad = np.arange(self.num_candidates) >= num_organic
    mu = np.where(is_ad, rng.normal(0, 0.3, (num_requests, self.num_candidates)), 0.0)
    value = np.where(is_ad, np.exp(mu + SIGMA * rng.normal(size=mu.shape)), 0.0)
    self.poi_creatives = np.stack([2 * np.arange(100), 2 * np.arange(100) + 1], 1).astype(np.int32)
    self.popularity = rng.uniform(1, 3, 100).astype(np.float32)
    candidates = np.stack([rng.permutation(100)[: self.num_candidates] for _ in range(num_requests)])
    self.columns = {
      "row": np.arange(num_requests, dtype=np.int32),
      "user": rng.integers(0, users, num_requests).astype(np.int32),
      "candidates": candidates.astype(np.int32),
      "is_ad": np.broadcast_to(is_ad, mu.shape).copy(),
      "bid": value.astype(np.float32),
      "value_mu": mu.astype(np.float32),
    }

  def click_probabilities(self, rows, items, creatives):
    """Returns (poi, creative, conversion) f64[n, ..., K], item by item."""
    poi = np.zeros(items.shape)
    for at in np.ndindex(items.shape[:-1]):
      shown = [int(i) for i in items[at]]
      for slot, item in enumerate(shown):
        if item < 0:
          continue
        crowd = sum(1 for other in shown if other >= 0 and other != item and other % 2 == item % 2)
        style = 1.0 if creatives[at][slot] % 2 == 0 else 0.8
        poi[at][slot] = self.quality[rows[at[0]], item] * self.position[slot % self.list_length] * 0.8**crowd * style
    return poi, 0.5 * poi, 0.1 * poi


def clicks_without_neighbours(world, batch, items):
  """Returns f[B, G, K]: quality * position, the toy systems' belief."""
  rows = np.asarray(batch["row"])[:, None, None]
  belief = world.quality[rows, np.maximum(items, 0)] * world.position
  return np.where(items >= 0, belief, 0.0)


class RankByBid:
  """Lists by b * quality over ads and organic_weight * quality over the next organic item."""

  name = "rank"

  def __init__(self, world, organic_weight=0.5):
    self.world = world
    self.organic_weight = organic_weight

  def allocate(self, batch, bids):
    bids = np.asarray(bids, np.float64)
    is_ad = np.asarray(batch["is_ad"])
    quality = self.world.quality[np.asarray(batch["row"])]
    items = np.full((*bids.shape[:2], self.world.list_length), -1)
    for b, g in np.ndindex(*bids.shape[:2]):
      ads = sorted(np.flatnonzero(is_ad[b]), key=lambda i: -bids[b, g, i] * quality[b, i])
      organic = list(np.flatnonzero(~is_ad[b]))
      for slot in range(self.world.list_length):
        ad_worth = bids[b, g, ads[0]] * quality[b, ads[0]] if ads else -1.0
        organic_worth = self.organic_weight * quality[b, organic[0]] if organic else -1.0
        items[b, g, slot] = ads.pop(0) if ad_worth > organic_worth else organic.pop(0)
    return _slate(self.world, batch, items)


class AffineMaximiser:
  """The best of fixed random lists by sum_ads b theta + organic_weight * sum_organic theta (maximal in range)."""

  name = "vcg_range"

  def __init__(self, world, num_lists=12, organic_weight=0.5, seed=1):
    rng = np.random.default_rng(seed)
    every = list(itertools.permutations(range(world.num_candidates), world.list_length))
    self.lists = np.array(every)[rng.choice(len(every), num_lists, replace=False)]
    self.world = world
    self.organic_weight = organic_weight

  def worth(self, batch, bids):
    """Returns (summands f[B, G, lists, K], theta f[B, lists, K])."""
    count = len(batch["row"])
    items = np.broadcast_to(self.lists, (count, *self.lists.shape))
    theta = clicks_without_neighbours(self.world, batch, items)
    weight = np.where(np.asarray(batch["is_ad"])[:, None], bids, self.organic_weight)
    return theta[:, None] * weight[:, :, self.lists], theta

  def allocate(self, batch, bids):
    best = self.worth(batch, np.asarray(bids, np.float64))[0].sum(-1).argmax(-1)
    return _slate(self.world, batch, self.lists[best])


class PivotPayment:
  """VCG over the range: P_i = max_A score(A; b_i = 0) - (score(A*) - b_i theta_i(A*)), per click."""

  name = "vcg"

  def __init__(self, system):
    self.system = system

  def price(self, batch, bids, slate):
    bids, items = np.asarray(bids, np.float64), np.asarray(slate.items)
    theta = np.asarray(slate.click_probability)
    score = self.system.worth(batch, bids)[0].sum(-1).max(-1)
    prices = np.zeros(items.shape)
    for b, g, k in np.ndindex(*items.shape):
      item = items[b, g, k]
      if not batch["is_ad"][b, item]:
        continue
      without = bids[b : b + 1, g : g + 1].copy()
      without[..., item] = 0
      one = {name: column[b : b + 1] for name, column in batch.items()}
      pivot = self.system.worth(one, without)[0].sum(-1).max()
      prices[b, g, k] = (pivot - (score[b, g] - bids[b, g, item] * theta[b, g, k])) / theta[b, g, k]
    return prices


def _slate(world, batch, items):
  pois = np.take_along_axis(np.asarray(batch["candidates"])[:, None], items.reshape(len(items), 1, -1), -1)
  creatives = world.poi_creatives[pois.reshape(items.shape), 0]
  return types.Slate(items.astype(np.int32), creatives.astype(np.int32), clicks_without_neighbours(world, batch, items))


def scored_market(batch=4, profiles=3, seed=0):
  """Returns (score f32[B, G, C], is_ad, valid bool[B, C]): organic first, then ads, then one absent position."""
  rng = np.random.default_rng(seed)
  count = ORGANIC + ADS + 1
  is_ad = np.broadcast_to(np.arange(count) >= ORGANIC, (batch, count)).copy()
  valid = np.broadcast_to(np.arange(count) < count - 1, (batch, count)).copy()
  valid[0, ORGANIC - 3 : ORGANIC] = False  # few candidates
  return rng.random((batch, profiles, count)).astype(np.float32), is_ad & valid, valid


def greedy_by_loop(score, is_ad, valid, length):
  """One list, slot by slot."""
  items = []
  for _ in range(length):
    left = [i for i in range(len(score)) if valid[i] and i not in items]
    organic = [i for i in left if not is_ad[i]][:1]
    choice = [i for i in left if is_ad[i]] + organic
    items.append(max(choice, key=lambda i: (score[i], -i)) if choice else -1)
  return items


def score_by_loop(items, theta, bids, is_ad, organic_weight, slot_price=0.0):
  """score(Y) of one list items [K] with click probabilities theta [K], bids and is_ad [C]."""
  total = 0.0
  for item, click in zip(items, theta, strict=True):
    if item >= 0 and is_ad[item]:
      total += float(bids[item]) * float(click) - slot_price
    elif item >= 0:
      total += organic_weight * float(click)
  return total


def legal(items, is_ad, valid):
  """Whether a list uses valid candidates once, organic ones from the first on and in order."""
  shown = [i for i in items if i >= 0]
  organic = [i for i in shown if not is_ad[i]]
  expected = np.flatnonzero(valid & ~is_ad)[: len(organic)].tolist()
  return len(set(shown)) == len(shown) and all(valid[i] for i in shown) and organic == expected
