"""A whole marketplace, generated or laid over real check-ins: catalogue, visits, requests, logs and the truth."""

import dataclasses

import numpy as np

from ega_jax import types
from ega_jax.data import latents as latents_lib
from ega_jax.data import logging_policy, market_config
from ega_jax.data.behaviour import Behaviour, simulate, whereabouts
from ega_jax.data.market_config import LARGE, NEW_YORK, PRESETS, SMALL, TINY, ClickModel, WorldConfig
from ega_jax.data.observed import Observations
from ega_jax.data.world import World, habit_table, marginal_clicks, sigmoid

__all__ = [
  "LARGE",
  "NEW_YORK",
  "PRESETS",
  "SMALL",
  "TINY",
  "Behaviour",
  "ClickModel",
  "Marketplace",
  "WorldConfig",
  "generate",
  "over_checkins",
]

CUT_SHARE = 0.7  # of the time span of a generated world
LEAD_MINUTES = 5  # a request precedes its visit by this much
BLOCK_CELLS = 1 << 21  # (request, POI) pairs handled at once


@dataclasses.dataclass(frozen=True)
class Marketplace:
  """Observed data (catalog, behaviour, requests, logs) and the truth (world); n requests in time order."""

  catalog: types.Catalog  # of events before cut_time
  behaviour: Behaviour
  world: World
  requests: dict  # [n]: row, user, hour i32, time i64, place f32 [n, 2]; [n, C]: candidates, is_ad, bid, value_mu
  logs: dict  # explored bool[n]; [n, K]: shown_item, shown_creative i32, shown_propensity, shown_payment f32, clicks i8
  cut_time: int  # minutes since 1970-01-01
  list_length: int
  config: WorldConfig


def generate(config, seed):
  """Returns the Marketplace of a generated city; the same (config, seed) gives the same bytes."""
  latents = latents_lib.draw(config, seed)
  behaviour = simulate(latents, config, seed)
  span = behaviour.time[-1] - behaviour.time[0]
  cut_time = int(behaviour.time[0] + CUT_SHARE * span)
  return _assemble(latents, behaviour, config, seed, cut_time, settled=True)


def over_checkins(checkins, config, seed, cut_time):
  """Returns the Marketplace laid over real check-ins: real visits; creatives, advertisers, values and clicks are ours.

  Args:
    checkins: data.checkins.Checkins.
    config: WorldConfig, NEW_YORK for that city.
    seed: of everything that is drawn.
    cut_time: minutes since 1970-01-01; the catalogue's popularity counts visits before it.
  """
  latents = latents_lib.fit(checkins, config, seed)
  sizes = len(checkins.user_ids), len(checkins.poi_ids)
  visits = (checkins.user.astype(np.int32), checkins.poi.astype(np.int32), checkins.time.astype(np.int64))
  return _assemble(latents, Behaviour(*visits, *sizes), config, seed, int(cut_time), settled=False)


def _assemble(latents, behaviour, config, seed, cut_time, settled):
  requests = _request_contexts(latents, behaviour, config, seed, settled)
  training = int((requests["time"] < cut_time).sum())
  if not training:
    raise ValueError(f"cut_time = {cut_time}, allowed: after the first request, {requests['time'][0]}")
  requests, pctr, recalled = _add_candidates(requests, latents, behaviour, config, seed, training)
  catalog = _catalog(latents, behaviour, cut_time, seed)
  weights = logging_policy.fit_organic_weights(requests, pctr, recalled, config, seed, training)
  lists = logging_policy.choose_lists(requests, pctr, recalled, weights, config, seed)
  world = _world(latents, behaviour, requests, config, seed)
  world = _calibrate(world, lists, logging_policy.first_creatives(requests, lists, catalog), config, seed)
  rng = market_config.stream(seed, "clicks")
  logs = logging_policy.show(requests, lists, catalog, lambda *shown: world.sample(*shown, rng), seed)
  return Marketplace(catalog, behaviour, world, requests, logs, cut_time, config.list_length, config)


def _request_contexts(latents, behaviour, config, seed, settled):
  """Returns the columns row, user, time, place, hour: one request just before each visit, or before a seeded sample."""
  order, start = behaviour.by_user()
  user, poi, time = behaviour.user[order], behaviour.poi[order], behaviour.time[order]
  first = np.zeros(len(user), bool)
  first[start[:-1][np.diff(start) > 0]] = True
  last_poi = np.where(first, -1, np.roll(poi, 1))
  last_time = np.where(first, time - 10 * LEAD_MINUTES, np.roll(time, 1))
  asked = np.minimum(np.maximum(time - LEAD_MINUTES, last_time + 1), time)
  if settled:
    place = whereabouts(latents, user, asked, last_poi, last_time)
  else:
    place = np.where(first[:, None], np.median(latents.poi_place, 0), latents.poi_place[last_poi])
  keep = np.arange(len(user))
  if 0 < config.max_requests < len(user):
    keep = np.sort(market_config.stream(seed, "requests").permutation(len(user))[: config.max_requests])
  keep = keep[np.argsort(asked[keep], kind="stable")]
  return {
    "row": np.arange(len(keep), dtype=np.int32),
    "user": user[keep].astype(np.int32),
    "time": asked[keep].astype(np.int64),
    "place": place[keep].astype(np.float32),
    "hour": market_config.hour_of_week(asked[keep]).astype(np.int32),
  }


def _top(score, count):
  """Returns i64[n, count]: columns of the `count` greatest scores of each row (in no order)."""
  if count >= score.shape[1]:
    return np.broadcast_to(np.arange(score.shape[1]), score.shape)
  return np.argpartition(score, -count, 1)[:, -count:]


def _target(feature, latents, ticket, config, rng):
  """Returns i32[n, M + N]: organic POIs by estimated GMV, then ads by id, then -1; a POI occurs at most once.

  Targeting knows observed features only: ads within the radius, the most relevant ones with some noise.
  """
  relevance = 0.7 * np.log1p(feature["own"]) - 0.6 * np.log1p(feature["distance"]) + 1.5 * feature["taste"]
  relevance += 0.2 * feature["popular"] + 0.4 * feature["season"] + rng.random(relevance.shape, np.float32)
  campaign = latents.advertises & (rng.random(relevance.shape, np.float32) >= config.paused_share)
  ad_score = np.where(campaign & (feature["distance"] <= config.radius_km), relevance, -np.inf)
  ads = _top(ad_score, config.num_ads)
  ads = np.where(np.take_along_axis(ad_score, ads, 1) > -np.inf, ads, len(ticket))
  ads = np.sort(ads, 1)
  ads = np.where(ads < len(ticket), ads, -1)
  organic = _top(np.where(campaign, -np.inf, relevance), config.num_organic)
  gathered = {name: np.take_along_axis(value, organic, 1) for name, value in feature.items()}
  gmv = logging_policy.predicted_ctr(gathered) * ticket[organic]
  organic = np.take_along_axis(organic, np.argsort(-gmv, 1, kind="stable"), 1)
  padding = np.full([len(ads), config.num_ads - ads.shape[1]], -1)
  return np.concatenate([organic, ads, padding], 1).astype(np.int32)


def _value_location(feature, level, config):
  """Returns f32[n, C]: log(m_i c_i(request)) - sigma_n^2 / 2, c_i a conversion index of observed features."""
  index = 0.3 * np.log1p(feature["own"]) + 0.6 * feature["taste"] - 0.15 * np.log1p(feature["distance"])
  return level + index - config.value_sigma**2 / 2


def _add_candidates(requests, latents, behaviour, config, seed, training):
  """Returns (requests with candidates, is_ad, bid, value_mu; pCTR f32[n, C]; recalled bool[n, C]).

  Money is scaled so that the median value in the first `training` requests is 1.
  """
  others = int((~latents.advertises).sum())
  if config.num_organic > others:
    raise ValueError(f"num_organic = {config.num_organic}, allowed: at most {others}, the POIs that never advertise")
  observations = Observations(behaviour, latents.poi_place, latents.poi_category, len(latents.category_hour))
  rng, value_rng = market_config.stream(seed, "targeting"), market_config.stream(seed, "values")
  ticket = np.exp(0.4 * market_config.stream(seed, "tickets").standard_normal(latents.poi_parent.max() + 1))
  ticket = ticket[latents.poi_parent]
  n, width = len(requests["row"]), config.num_organic + config.num_ads
  candidates, pctr = np.empty([n, width], np.int32), np.empty([n, width], np.float32)
  mu, bid = np.zeros([n, width], np.float32), np.zeros([n, width], np.float32)
  recalled = np.empty([n, width], bool)
  block = max(16, BLOCK_CELLS // behaviour.num_pois)
  for begin in range(0, n, block):
    part = slice(begin, begin + block)
    feature = observations.features(*(requests[name][part] for name in ("user", "time", "place", "hour")))
    found = _target(feature, latents, ticket, config, rng)
    feature = {name: np.take_along_axis(value, np.maximum(found, 0), 1) for name, value in feature.items()}
    is_ad = (found >= 0) & (np.arange(width) >= config.num_organic)
    candidates[part], pctr[part] = found, logging_policy.predicted_ctr(feature)
    recalled[part] = logging_policy.recalled_ads(feature, is_ad, config.recall)
    mu[part] = np.where(is_ad, _value_location(feature, latents.level[found], config), 0)
    bid[part] = mu[part] + config.value_sigma * value_rng.standard_normal(found.shape, np.float32)
  is_ad = (candidates >= 0) & (np.arange(width) >= config.num_organic)
  sample = slice(0, training, max(1, training // 4000))
  scale = np.median(bid[sample][is_ad[sample]])  # bid holds log values up to here
  np.subtract(mu, scale, out=mu, where=is_ad)
  np.exp(np.subtract(bid, scale, out=bid), out=bid)
  bid[~is_ad] = 0
  return requests | {"candidates": candidates, "is_ad": is_ad, "bid": bid, "value_mu": mu}, pctr, recalled


def _catalog(latents, behaviour, cut_time, seed):
  """Returns the types.Catalog as observed before the cut."""
  poi_embedding, creative_embedding = latents_lib.observed_embeddings(latents, seed)
  visits = np.bincount(behaviour.poi[behaviour.time < cut_time], minlength=behaviour.num_pois)
  return types.Catalog(
    poi_embedding=poi_embedding,
    poi_place=latents.poi_place,
    poi_category=latents.poi_category,
    poi_parent=latents.poi_parent,
    poi_popularity=np.log1p(visits).astype(np.float32),
    poi_creatives=latents.poi_creatives,
    creative_embedding=creative_embedding,
    creative_poi=latents.creative_poi,
  )


def _world(latents, behaviour, requests, config, seed):
  """Returns the World with uncalibrated biases. Values are the bids: advertisers are truthful."""
  keys, values = habit_table(behaviour)
  shared = {f.name for f in dataclasses.fields(World)} & {f.name for f in dataclasses.fields(latents)}
  return World(
    **{name: getattr(latents, name).copy() for name in sorted(shared)},
    habit_key=keys,
    habit_value=values,
    request_user=requests["user"].copy(),
    request_place=requests["place"].copy(),
    request_hour=requests["hour"].copy(),
    candidates=requests["candidates"],
    value=requests["bid"],
    noise_seed=int(market_config.stream(seed, "residual").integers(1 << 62)),
    click=config.click,
  )


def _solve(mean_of, target):
  """Returns the bias in [-15, 10] at which the increasing function `mean_of(bias)` is `target`, by bisection."""
  low, high = -15.0, 10.0
  for _ in range(30):
    middle = (low + high) / 2
    low, high = (middle, high) if mean_of(middle) < target else (low, middle)
  return (low + high) / 2


def _calibrate(world, lists, creatives, config, seed, sample=3000):
  """Returns the world with the biases at which a sample of the logged lists has the configured rates."""
  click = dataclasses.replace(world.click, bias=0.0, creative_bias=0.0, conversion_bias=0.0)
  world = dataclasses.replace(world, click=click)
  rows = np.sort(market_config.stream(seed, "calibration").permutation(len(creatives))[:sample])
  creatives = creatives[rows]
  pois = world.pois(rows, lists["shown_item"][rows])
  logit, examination = world.logit(rows, pois, creatives), world.examination(pois.shape[1])

  def clicks(bias):
    return marginal_clicks(sigmoid(logit + bias), examination, click.fatigue)

  bias = _solve(lambda b: clicks(b).mean(), config.click_rate)
  weight = clicks(bias)
  odds = [np.log(p / (1 - p)) for p in world.given_click(rows, pois, creatives)]
  rates = config.creative_click_rate, config.conversion_rate
  solved = [
    _solve(lambda b, x=x: np.average(sigmoid(x + b), weights=weight), rate) for x, rate in zip(odds, rates, strict=True)
  ]
  click = dataclasses.replace(click, bias=bias, creative_bias=solved[0], conversion_bias=solved[1])
  return dataclasses.replace(world, click=click)
