"""Observed features of candidates: what counts over a user's own history know about a POI.

A pure function of a request, run on the device. Nothing of it looks at a bid. Every sum over the history is computed
once for all features: events are scattered to POIs and read at the candidates, or compared with them, whichever is
smaller.
"""

import math

import jax
import jax.numpy as jnp

from ega_jax.types import CLICK, CONVERSION, VISIT

SLOW = 160.0  # visits after which one counts half; 40 forgets habits: count-based floors were worse by .02
OTHER_PART = 0.4  # weight of an hour of the weekend for one of a working day, and the other way round

NAMES = (
  "visits_slow",  # log1p sum of .5^(n/SLOW) over own visits here, n visits ago
  "visits_fast",  # sum of .5^(n/5) over them, at most 8
  "visit_share",  # visits_slow's sum over that of all own visits
  "transitions",  # log1p of how often this POI followed the last visited one in the own history
  "transition_share",
  "successors",  # log1p of how often it followed in anyone's visits
  "successor_share",
  "hour",  # log1p of own visits here at this time of day and part of week (slow weights, kernel of two hours)
  "hour_share",
  "sharp_hour",  # the same with a kernel of three quarters of an hour
  "sharp_hour_share",
  "day",  # sum of exp(-age / 1 day) over own visits here
  "week",  # the same with 7 days
  "clicks",  # log1p of clicks here so far
  "conversions",
  "category_share",  # share of own visits (slow weights) in this category
  "parent_share",
  "category_click_share",  # share of own clicks in this category
  "category_hour_share",  # share of own visits at this hour in this category
  "same_as_last",  # is the last visited POI
  "same_category_as_last",
  "popularity",  # log1p of visits before the cut, divided by 5
  "log_distance",  # log1p of kilometres
  "nearness",  # exp(-kilometres / 2)
  "visit_affinity",  # cosine between this POI's content and the slow average of visited content
  "click_affinity",  # the same over clicks
)
NUM_FEATURES = len(NAMES)


def events(request):
  """Returns (visit, click, conversion, rank): masks f32[B, H] and how many visits came after each event."""
  action = jnp.where(request.history_poi >= 0, request.history_action, 0)
  visit = (action == VISIT).astype(jnp.float32)
  click = (action >= CLICK).astype(jnp.float32)
  conversion = (action == CONVERSION).astype(jnp.float32)
  rank = jnp.flip(jnp.cumsum(jnp.flip(visit, -1), axis=-1), -1) - visit
  return visit, click, conversion, rank


def nearness(gap, hour, other_hour, width, other_part):
  """Returns f32[B, H] in [0, 1], how near in time of day two moments are: a normal kernel, and `other_part` of it
  across the weekend's edge.

  Args: gap f32[B, H]: hours between them; hour, other_hour: their hours of the week; width: of the kernel, in hours.
  """
  apart = jnp.abs(gap) % 24
  apart = jnp.minimum(apart, 24 - apart)
  same_part = (hour // 24 >= 5) == (other_hour // 24 >= 5)
  return jnp.exp(-0.5 * jnp.square(apart / width)) * jnp.where(same_part, 1.0, other_part)


def hour_kernel(hour, age, request_hour, width=2.0):
  """Returns f32[B, H] in [0, 1]: nearness in time of day, less across the weekend's edge.

  The gap comes from the age in hours, which is exact to the minute; hours of the week say which part of it an event is
  in, and whether times are known at all: where one is not, the kernel is its mean over the hours of a week, as 0 would
  say "at another hour". `width` is the kernel's standard deviation in hours.
  """
  now = request_hour[:, None]
  kernel = nearness(age, hour, now, width, OTHER_PART)
  across = 2 * (5 / 7) * (2 / 7)  # share of pairs of days of which one is on a weekend
  mean = width * math.sqrt(2 * math.pi) / 24 * (1 - across * (1 - OTHER_PART))
  return jnp.where((hour >= 0) & (now >= 0), kernel, mean)


def last_visit(request):
  """Returns i32[B]: the POI visited last, -1 without a visit."""
  visit, _, _, _ = events(request)
  place = jnp.where(visit > 0, jnp.arange(visit.shape[1]), -1).max(axis=1)
  poi = jnp.take_along_axis(request.history_poi, jnp.maximum(place, 0)[:, None], axis=1)[:, 0]
  return jnp.where(place >= 0, poi, -1)


def visit_gap(request):
  """Returns f32[B]: hours since the last visit, infinite without one."""
  visit = events(request)[0] > 0
  return jnp.where(visit, jnp.maximum(request.history_age, 0.0), jnp.inf).min(axis=1)


def moment(request):
  """Returns f32[B, 3], how to read a request's features: whether its time is known, how long ago the last visit was,
  and how many there were. Just after a visit the same POI is unlikely; a day later it is the best guess.
  """
  visits, gap = events(request)[0].sum(1), visit_gap(request)
  timed = request.hour >= 0
  gap = jnp.where(timed & jnp.isfinite(gap), jnp.log1p(gap) / 3, 0.0)
  return jnp.stack([timed.astype(jnp.float32), gap, jnp.log1p(visits) / 3], axis=-1)


def previous_visit(visit):
  """Returns i32[B, H]: where the visit before each event is, -1 if there is none."""
  index = jnp.where(visit > 0, jnp.arange(visit.shape[1]), -1)
  return jnp.pad(jax.lax.cummax(index, axis=1)[:, :-1], ((0, 0), (1, 0)), constant_values=-1)


def follows_last(request, visit, last):
  """Returns f32[B, H]: 1 for a visit whose preceding visit was to `last`."""
  before = previous_visit(visit)
  poi = jnp.take_along_axis(request.history_poi, jnp.maximum(before, 0), axis=1)
  return visit * ((before >= 0) & (poi == last[:, None]) & (last[:, None] >= 0))


def sum_where_equal(keys, weights, queries, size=None):
  """Returns f32[B, C, F]: the sum of weights [B, H, F] over the events whose key [B, H] equals the query [B, C].

  Negative keys and queries match nothing. With `size` (keys are < size) and many queries, the sums are scattered
  to a [B, size, F] table and read there; otherwise every key is compared with every query.
  """
  batch, events = keys.shape
  if size is not None and size <= events * queries.shape[1]:
    rows = jnp.arange(batch)[:, None]
    weights = jnp.where((keys >= 0)[..., None], weights, 0.0)
    table = jnp.zeros((batch, size, weights.shape[-1])).at[rows, jnp.maximum(keys, 0)].add(weights)
    return jnp.where((queries >= 0)[..., None], table[rows, jnp.maximum(queries, 0)], 0.0)
  equal = (keys[:, :, None] == queries[:, None, :]) & (keys >= 0)[:, :, None]
  return jnp.einsum("bhf,bhc->bcf", weights, equal.astype(jnp.float32))


def _share(part, weights):
  """Returns part [B, C] over the total of weights [B, H]; 0 where the total is 0."""
  total = weights.sum(axis=1, keepdims=True)
  return jnp.where(total > 0, part / jnp.where(total > 0, total, 1.0), 0.0)


def successors(request, pois, size):
  """Returns (count, share) f32[B, C]: how often each of pois i32[B, C] followed the last visited one in anyone's
  visits.

  The share is of all that the request's successors count. size: how many POIs there are.
  """
  counts = jnp.where(request.successor_poi >= 0, request.successor_count, 0.0)
  count = sum_where_equal(request.successor_poi, counts[..., None], pois, size)[..., 0]
  return count, _share(count, counts)


def content_profile(request, catalog, weights):
  """Returns f32[B, D]: unit-length weighted average of the content of history POIs; 0 where the weights are."""
  content = catalog.poi_embedding[jnp.maximum(request.history_poi, 0)]
  mean = jnp.einsum("bh,bhd->bd", weights, content)
  return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-6)


def _history_features(request, catalog, candidates, last):
  visit, click, conversion, rank = events(request)
  slow, fast = visit * 0.5 ** (rank / SLOW), visit * 0.5 ** (rank / 5)
  age = jnp.maximum(request.history_age, 0.0)
  hour = slow * hour_kernel(request.history_hour, age, request.hour)
  sharp = slow * hour_kernel(request.history_hour, age, request.hour, width=0.75)
  follows = follows_last(request, visit, last)
  day, week = visit * jnp.exp(-age / 24), visit * jnp.exp(-age / 168)
  weights = [slow, fast, follows, hour, sharp, day, week, click, conversion]
  size = catalog.poi_category.shape[0]
  sums = sum_where_equal(request.history_poi, jnp.stack(weights, -1), candidates, size)
  slow_at, fast_at, follow_at, hour_at, sharp_at, day_at, week_at, click_at, conversion_at = jnp.moveaxis(sums, -1, 0)
  follow_total = follows.sum(1, keepdims=True)
  shares = [_share(slow_at, slow), jnp.log1p(follow_at), follow_at / jnp.maximum(follow_total, 1.0)]
  follow_all, follow_share = successors(request, candidates, size)
  shares += [jnp.log1p(follow_all), follow_share, jnp.log1p(hour_at), _share(hour_at, hour)]
  shares += [jnp.log1p(sharp_at), _share(sharp_at, sharp)]
  return [jnp.log1p(slow_at), fast_at, *shares, day_at, week_at, jnp.log1p(click_at), jnp.log1p(conversion_at)]


def _category_features(request, catalog, candidates, last):
  visit, click, _, rank = events(request)
  slow = visit * 0.5 ** (rank / SLOW)
  hour = slow * hour_kernel(request.history_hour, jnp.maximum(request.history_age, 0.0), request.hour)
  safe, visited = jnp.maximum(candidates, 0), jnp.maximum(request.history_poi, 0)
  category, parent = catalog.poi_category, catalog.poi_parent
  size = category.shape[0]  # there are no more categories than POIs
  by_category = sum_where_equal(category[visited], jnp.stack([slow, click, hour], -1), category[safe], size)
  by_parent = sum_where_equal(parent[visited], slow[..., None], parent[safe], size)
  last_category = jnp.where(last >= 0, category[jnp.maximum(last, 0)], -1)[:, None]
  slow_in, click_in, hour_in = jnp.moveaxis(by_category, -1, 0)
  shares = [_share(slow_in, slow), _share(by_parent[..., 0], slow), _share(click_in, click), _share(hour_in, hour)]
  return shares + [candidates == last[:, None], category[safe] == last_category]


def _place_and_content_features(request, catalog, candidates):
  visit, click, _, rank = events(request)
  safe = jnp.maximum(candidates, 0)
  offset = catalog.poi_place[safe] - request.place[:, None, :]
  distance = jnp.sqrt(jnp.sum(jnp.square(offset), axis=-1))
  content = catalog.poi_embedding[safe]
  norm = jnp.maximum(jnp.linalg.norm(content, axis=-1), 1e-6)
  profiles = [content_profile(request, catalog, visit * 0.5 ** (rank / SLOW)), content_profile(request, catalog, click)]
  cosines = [jnp.einsum("bcd,bd->bc", content, profile) / norm for profile in profiles]
  return [catalog.poi_popularity[safe] / 5, jnp.log1p(distance), jnp.exp(-distance / 2), *cosines]


def candidate_features(request, catalog, candidates):
  """Returns f32[B, C, F] in the order of NAMES; 0 where a candidate i32[B, C] is -1.

  Args: request and catalog as in `ega_jax.types`; candidates are POI ids, of the request's list or any others.
  """
  request, catalog = jax.tree.map(jnp.asarray, (request, catalog))
  last = last_visit(request)
  columns = _history_features(request, catalog, candidates, last)
  columns += _category_features(request, catalog, candidates, last)
  columns += _place_and_content_features(request, catalog, candidates)
  stacked = jnp.stack([jnp.asarray(column, jnp.float32) for column in columns], axis=-1)
  return jnp.where((candidates >= 0)[..., None], stacked, 0.0)
