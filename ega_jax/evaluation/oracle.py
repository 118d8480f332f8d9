"""The bound and the floor of every table: lists that know the world's click probabilities, and lists by popularity."""

import numpy as np

from ega_jax import types
from ega_jax.systems.rows import at_items


class Oracle:
  """Lists built by beam search over the true score(Y) = sum_ads (b x - slot_price) + organic_weight * sum_organic x.

  Our bound on what any allocation can reach at a given ad load (a beam, hence a lower estimate of the bound). Lists
  grow by one item: an unused ad out of the `pool` best alone, or exactly the next organic item. Each POI shows its best
  creative. Only evaluation may use it: it reads the truth.

  Args: world: World; poi_creatives i32[P, R] of the Catalog; list_length: K; objective: slate.Objective; beam: lists
    kept.
  """

  name = "oracle"

  def __init__(self, world, poi_creatives, list_length, *, objective, beam=4, pool=24):
    self.world = world
    self.poi_creatives = np.asarray(poi_creatives)
    self.list_length = list_length
    self.objective = objective
    self.beam = beam
    self.pool = pool

  def allocate(self, batch, bids):
    """Returns the Slate of bids f[B, G, C]; click_probability is the truth."""
    bids = np.asarray(bids, np.float64)
    creative, alone = self._alone(batch)
    worth = np.where(np.asarray(batch["is_ad"])[:, None], bids * alone[:, None], -np.inf)
    pool = np.argsort(-worth, axis=-1, kind="stable")[..., : self.pool]
    pool = np.where(np.take_along_axis(worth, pool, -1) > -np.inf, pool, -1)
    lists, alive = np.full((*bids.shape[:2], 1, 0), -1), np.ones((*bids.shape[:2], 1), bool)
    for _ in range(self.list_length):
      lists, alive = self._extend(batch, lists, alive, pool, bids, creative)
    items = lists[:, :, 0]
    creatives = at_items(creative, items, -1)
    return types.Slate(items.astype(np.int32), creatives.astype(np.int32), self._clicks(batch, items, creatives))

  def _clicks(self, batch, items, creatives):
    poi = self.world.click_probabilities(np.asarray(batch["row"]), items, np.maximum(creatives, 0))[0]
    return np.where(items >= 0, poi, 0.0)

  def _alone(self, batch):
    """Returns (best creative i[B, C], its click probability in a list of its own f[B, C]; 0 for padding)."""
    candidates = np.asarray(batch["candidates"])
    options = np.where(candidates[..., None] >= 0, self.poi_creatives[np.maximum(candidates, 0)], -1)
    items = np.broadcast_to(np.arange(candidates.shape[1])[None, :, None], options.shape)
    items = np.where(options >= 0, items, -1)
    clicks = np.where(options >= 0, self._clicks(batch, items[..., None], options[..., None])[..., 0], -1.0)
    best = clicks.argmax(-1)[..., None]
    chosen, click = np.take_along_axis(options, best, -1)[..., 0], np.take_along_axis(clicks, best, -1)[..., 0]
    return chosen, np.maximum(click, 0.0)

  def _extend(self, batch, lists, alive, pool, bids, creative):
    """Returns the best `beam` lists i[B, G, <= beam, k + 1] that extend lists i[B, G, W, k] by one legal item.

    `alive` bool[B, G, W] and its successor, returned second, say which lists are legal: a beam may be wider than that.
    """
    organic = next_organic(lists, np.asarray(batch["is_ad"]), np.asarray(batch["candidates"]) >= 0)
    ads = np.broadcast_to(pool[:, :, None], (*lists.shape[:3], pool.shape[-1]))
    added = np.concatenate([ads, organic[..., None]], -1)
    used = (lists[..., None, :] == added[..., None]).any(-1) & (added >= 0)
    longer = np.concatenate(
      [np.broadcast_to(lists[..., None, :], (*added.shape, lists.shape[-1])), added[..., None]], -1
    )
    clicks = self._clicks(batch, longer, at_items(creative, longer, 0))
    flat_items = np.maximum(longer, 0).reshape(*bids.shape[:2], -1)
    own = np.take_along_axis(bids, flat_items, -1).reshape(longer.shape)
    worth = np.where(longer >= 0, self.objective.worth(clicks, own, at_items(batch["is_ad"], longer, False)), 0.0)
    # Only a list that nothing can extend gets an empty slot, and nothing follows it.
    empty = longer < 0
    gap = (empty[..., :-1] & ~empty[..., 1:]).any(-1)
    legal = alive[..., None] & ~used & ~gap
    score = np.where(legal, worth.sum(-1) - 1e9 * empty.sum(-1), -np.inf)
    flat = score.reshape(*score.shape[:2], -1)
    best = np.argsort(-flat, axis=-1, kind="stable")[..., : self.beam]
    kept = np.take_along_axis(longer.reshape(*flat.shape, -1), best[..., None], axis=2)
    return kept, np.take_along_axis(flat, best, -1) > -np.inf


def next_organic(lists, is_ad, valid):
  """Returns the position of the next organic item i[B, ..., W] of lists i[B, ..., W, k]; -1 when all are shown.

  Organic items come first among the candidates, in their fixed order, so the next one is their count so far.
  """
  count = (~is_ad & valid).sum(-1)
  shown = ((lists >= 0) & ~at_items(is_ad, lists, True)).sum(-1)
  limit = count.reshape(-1, *([1] * (shown.ndim - 1)))
  return np.where(shown < limit, shown, -1)


class PopularityFloor:
  """The trivial floor: the most popular candidates (organic ones in their order), first creatives, no bids, no user.

  `organic_weight` multiplies an organic item's popularity: the knob for equal ad load. Its belief is one constant,
  click_rate. poi_popularity f[P], poi_creatives i32[P, R]: of the Catalog.
  """

  name = "popularity"

  def __init__(self, poi_popularity, poi_creatives, list_length, *, organic_weight=1.0, click_rate=0.05):
    self.poi_popularity = np.asarray(poi_popularity, np.float64)
    self.poi_creatives = np.asarray(poi_creatives)
    self.list_length = list_length
    self.organic_weight = organic_weight
    self.click_rate = click_rate

  def allocate(self, batch, bids):
    """Returns the same Slate for every profile of bids f[B, G, C]."""
    candidates, is_ad = np.asarray(batch["candidates"]), np.asarray(batch["is_ad"], bool)
    valid = candidates >= 0
    popularity = self.poi_popularity[np.maximum(candidates, 0)]
    open_ads = np.where(is_ad & valid, popularity, -1.0)
    lists = np.full((len(candidates), 1, 0), -1)
    every = np.arange(len(candidates))
    for _ in range(self.list_length):
      organic = next_organic(lists, is_ad, valid)[:, 0]
      organic_score = np.where(organic >= 0, self.organic_weight * popularity[every, np.maximum(organic, 0)], -1.0)
      ad = open_ads.argmax(-1)
      ad_score = open_ads[every, ad]
      chosen = np.where(organic_score > ad_score, organic, np.where(ad_score >= 0, ad, organic))
      open_ads[every[chosen >= 0], chosen[chosen >= 0]] = -1.0
      lists = np.concatenate([lists, chosen[:, None, None]], -1)
    items = np.broadcast_to(lists, (len(candidates), np.shape(bids)[1], self.list_length))
    creatives = np.where(items >= 0, at_items(self.poi_creatives[np.maximum(candidates, 0), 0], items), -1)
    belief = np.where(items >= 0, self.click_rate, 0.0).astype(np.float32)
    return types.Slate(items.astype(np.int32), creatives.astype(np.int32), belief)
