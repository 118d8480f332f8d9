"""The policy that wrote the logs: a cascade (recall, pCTR, blending, GSP) and exploration with known propensities.

It reads observed features only. Candidates are organic items in their fixed order (positions 0..M-1), then ads.
"""

import numpy as np

from ega_jax.data import market_config

CALIBRATION_ROWS = 2000
PRIOR_SHOWS = 20  # creatives start from this many shows at the mean creative CTR


def predicted_ctr(feature):
  """Returns f32[n, X], pCTR by a hand-set logistic regression.

  Args: feature: {"own", "taste", "season", "distance", "popular"} f32[n, X], `Observations.features` at X POIs of each
    request (its candidates, say).
  """
  logit = -3.2 + 0.6 * np.log1p(feature["own"]) + 1.5 * feature["taste"] + 0.4 * feature["season"]
  logit = logit - 0.5 * np.log1p(feature["distance"]) + 0.1 * feature["popular"]
  return (1 / (1 + np.exp(-logit))).astype(np.float32)


def recalled_ads(feature, is_ad, count):
  """Returns bool[n, C]: the `count` ads of each request that are best by own visits, distance, popularity and taste.

  Bids do not enter recall, as in the cascades that the papers compare with.

  Args: feature: as in `predicted_ctr`, [n, C]; is_ad bool[n, C].
  """
  score = 0.5 * np.log1p(feature["own"]) - 0.6 * np.log1p(feature["distance"]) + 0.2 * feature["popular"]
  score += 1.2 * feature["taste"]
  score = np.where(is_ad, score, -np.inf)
  if count < score.shape[1]:
    score = np.where(score >= np.partition(score, -count, 1)[:, -count, None], score, -np.inf)
  return score > -np.inf


def cascade_lists(ad_score, organic_score, length):
  """Returns i32[n, K]: each slot takes the better of the next ad by score and the next organic item in its fixed order.

  Args:
    ad_score: f[n, C] bid * pCTR, -inf where there is no (recalled) ad.
    organic_score: f[n, M] organic weight * pCTR, in the fixed order.
    length: K <= M.
  """
  n = len(ad_score)
  best = np.argpartition(-ad_score, min(length, ad_score.shape[1] - 1), 1)[:, :length]
  best = np.take_along_axis(best, np.argsort(-np.take_along_axis(ad_score, best, 1), 1, kind="stable"), 1)
  top = np.take_along_axis(ad_score, best, 1)
  pad = np.full([n, 1], -np.inf)
  top, organic = np.concatenate([top, pad], 1), np.concatenate([organic_score[:, :length], pad], 1)
  row, ads, organics = np.arange(n), np.zeros(n, np.int64), np.zeros(n, np.int64)
  items = np.empty([n, length], np.int32)
  for k in range(length):
    take_ad = top[row, ads] > organic[row, organics]
    items[:, k] = np.where(take_ad, best[row, np.minimum(ads, best.shape[1] - 1)], organics)
    ads, organics = ads + take_ad, organics + ~take_ad
  return items


def explored_lists(weight, num_organic, length, uniform):
  """Returns (items i32[n, K], propensity f64[n, K]) of a Plackett-Luce draw over the legal items of each step.

  Legal are the unused ads and exactly the next organic item. The propensity is the step's, given the steps before it.

  Args:
    weight: f[n, C] non-negative; 0 for what does not exist.
    num_organic: M.
    length: K.
    uniform: f[n, K] in [0, 1).
  """
  n, row = len(weight), np.arange(len(weight))
  legal = weight.astype(np.float64).copy()
  organic = legal[:, :num_organic].copy()
  legal[:, :num_organic] = 0
  shown = np.zeros(n, np.int64)
  items, propensity = np.empty([n, length], np.int32), np.empty([n, length])
  for k in range(length):
    legal[row, shown] = organic[row, shown]
    cumulative = np.cumsum(legal, 1)
    total = cumulative[:, -1]
    chosen = (cumulative <= (uniform[:, k] * total)[:, None]).sum(1)
    chosen = np.minimum(chosen, legal.shape[1] - 1)
    items[:, k], propensity[:, k] = chosen, legal[row, chosen] / total
    legal[row, chosen] = 0
    shown = np.minimum(shown + (chosen < num_organic), num_organic - 1)
  return items, propensity


def gsp_payments(ad_score, pctr, items, is_ad, bid, reserve):
  """Returns f32[n, K]: score of the runner-up / own pCTR, per click, at least the reserve, at most the bid.

  The runner-up is the next lower score of the list; for its lowest ad, of all ads that compete. Organic items pay 0.

  Args:
    ad_score: f[n, C] bid * pCTR of the ads that compete, -inf elsewhere.
    pctr, is_ad, bid: [n, C].
    items: i32[n, K].
    reserve: least price per click.
  """
  row = np.arange(len(items))[:, None]
  own = np.where(is_ad[row, items], (bid * pctr)[row, items], np.inf)  # organic scores are below nobody's
  lower = np.where(own[:, None, :] < own[:, :, None], own[:, None, :], 0).max(-1)
  lowest = own.min(1, keepdims=True)
  outside = np.where(ad_score < lowest, ad_score, 0).max(1, keepdims=True)
  runner_up = np.where(own == lowest, np.maximum(outside, 0), lower)
  price = np.maximum(runner_up / pctr[row, items], reserve)
  return np.where(is_ad[row, items], np.minimum(price, bid[row, items]), 0).astype(np.float32)


def _fit_weight(share_of, target):
  """Returns the organic weight at which the decreasing function `share_of(weight)` is `target`, by bisection."""
  low, high = 1e-4, 1e4
  for _ in range(24):
    middle = np.sqrt(low * high)
    low, high = (middle, high) if share_of(middle) > target else (low, middle)
  return float(np.sqrt(low * high))


def fit_organic_weights(requests, pctr, recalled, config, seed, training):
  """Returns (deterministic, exploration) organic weights that give the configured mean ad share.

  They are fitted on a sample of the first `training` requests, those before the cut.

  Args: requests: columns is_ad, bid, candidates [n, C]; pctr f32[n, C]; recalled bool[n, C] of `recalled_ads`; config:
    WorldConfig; seed: of the sample and of its explored lists.
  """
  rng = market_config.stream(seed, "policy_weights")
  rows = rng.permutation(training)[:CALIBRATION_ROWS]
  is_ad, score = requests["is_ad"][rows], requests["bid"][rows] * pctr[rows]
  cascade = np.where(recalled[rows], score, -np.inf)
  organic = pctr[rows][:, : config.num_organic]
  uniform = rng.random([len(rows), config.list_length])

  def share(items):
    return np.take_along_axis(is_ad, items, 1).mean()

  def explored(weight):
    drawn = exploration_weights(score, is_ad, pctr[rows], requests["candidates"][rows], weight, config)
    return share(explored_lists(drawn, config.num_organic, config.list_length, uniform)[0])

  greedy = _fit_weight(lambda w: share(cascade_lists(cascade, w * organic, config.list_length)), config.ad_share)
  return greedy, _fit_weight(explored, config.ad_share)


def exploration_weights(score, is_ad, pctr, candidates, organic_weight, config):
  """Returns f[n, C]: Plackett-Luce weights, score ** config.exploration_power; every existing candidate has a positive
  one.

  Args: score f[n, C], bid * pCTR, read at ads; is_ad bool[n, C]; pctr f[n, C], times organic_weight the score of
    organic items; candidates i[n, C], -1 for padding (weight 0).
  """
  base = np.where(is_ad, score, organic_weight * pctr)
  return np.where(candidates >= 0, np.maximum(base, 1e-9) ** config.exploration_power, 0)


def choose_lists(requests, pctr, recalled, weights, config, seed, block=4096):
  """Returns dict: shown_item i32[n, K], shown_propensity f32[n, K], explored bool[n], shown_payment f32[n, K].

  Items are positions in the candidates; the propensity is that of the item's step (1 where not explored), before
  creatives; the payment is GSP's, per click, in explored lists too.

  Args:
    requests: columns is_ad, bid, candidates [n, C].
    pctr: f32[n, C]. recalled: bool[n, C], the ads that compete; an explored list may show any.
    weights: (deterministic, exploration) of `fit_organic_weights`.
    config: WorldConfig. seed: of the exploration.
    block: requests handled at once; the lists do not depend on it.
  """
  rng = market_config.stream(seed, "policy_lists")
  n, length = len(pctr), config.list_length
  explored = rng.random(n) < config.exploration
  uniform = rng.random([n, length])
  item, payment = np.empty([n, length], np.int32), np.empty([n, length], np.float32)
  propensity = np.ones([n, length])
  for begin in range(0, n, block):
    part = slice(begin, begin + block)
    is_ad, bid, ctr = requests["is_ad"][part], requests["bid"][part], pctr[part]
    score = bid * ctr
    ranked = np.where(recalled[part], score, -np.inf)
    item[part] = cascade_lists(ranked, weights[0] * ctr[:, : config.num_organic], length)
    free = np.flatnonzero(explored[part])
    drawn = exploration_weights(score, is_ad, ctr, requests["candidates"][part], weights[1], config)[free]
    lists, chance = explored_lists(drawn, config.num_organic, length, uniform[part][free])
    item[begin + free], propensity[begin + free] = lists, chance
    payment[part] = gsp_payments(ranked, ctr, item[part], is_ad, bid, config.reserve)
  return {
    "shown_item": item,
    "shown_propensity": propensity.astype(np.float32),
    "explored": explored,
    "shown_payment": payment,
  }


def first_creatives(requests, lists, catalog):
  """Returns i32[n, K]: each shown POI's first creative.

  Args: requests: column candidates i[n, C]; lists: from `choose_lists`; catalog: types.Catalog.
  """
  return catalog.poi_creatives[np.take_along_axis(requests["candidates"], lists["shown_item"], 1), 0]


def show(requests, lists, catalog, sample, seed, block=1024):
  """Returns the log columns: the lists with creatives, clicks and the creatives' share of the propensities.

  The creative of a POI is the one with the best smoothed creative CTR in the logs so far; uniform where explored.

  Args:
    requests: columns, rows in time order.
    lists: from `choose_lists`.
    catalog: types.Catalog.
    sample: (rows, items, creatives) -> (click, creative_click, conversion), each i8[n, K].
    seed: of the creative exploration.
    block: requests after which the creatives' CTRs are counted anew.
  """
  rng = market_config.stream(seed, "policy_creatives")
  clicks, shows = np.zeros(len(catalog.creative_poi)), np.zeros(len(catalog.creative_poi))
  count = (catalog.poi_creatives >= 0).sum(1)
  columns = {"shown_creative": [], "click": [], "creative_click": [], "conversion": []}
  propensity = lists["shown_propensity"].copy()
  for begin in range(0, len(propensity), block):
    rows = np.arange(begin, min(begin + block, len(propensity)))
    item, free = lists["shown_item"][rows], lists["explored"][rows]
    poi = np.take_along_axis(requests["candidates"][rows], item, 1)
    own = catalog.poi_creatives[poi]
    mean = (clicks.sum() + 1) / (shows.sum() + 20)
    rate = (clicks[own] + PRIOR_SHOWS * mean) / (shows[own] + PRIOR_SHOWS)
    pick = np.where(own >= 0, rate, -1).argmax(-1)
    pick = np.where(free[:, None], (rng.random(item.shape) * count[poi]).astype(np.int64), pick)
    creative = np.take_along_axis(own, pick[..., None], -1)[..., 0]
    propensity[rows] /= np.where(free[:, None], count[poi], 1)
    drawn = (creative, *sample(rows, item, creative))
    for name, value in zip(columns, drawn, strict=True):
      columns[name].append(value)
    shows += np.bincount(creative.ravel(), minlength=len(shows))
    clicks += np.bincount(creative.ravel(), drawn[2].ravel(), minlength=len(clicks))
  return lists | {name: np.concatenate(parts) for name, parts in columns.items()} | {"shown_propensity": propensity}
