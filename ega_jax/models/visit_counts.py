"""What the visits of a user say of the next one: a weighted count of them, in the family of count-based recommenders.

count(POI) = sum over the own visits there of
    .5^(n / half_life) * (1 + own * follows * (1 + context * similar) + near * (hour + own_hour * follows)),
less if the user has just been there, + markov * share + UNSEEN * (1 + everyone's visits). n: visits ago. follows: the
visit came after one to the POI visited last; similar: and that one was at this time of day. near: the visit was at the
time of day that is asked for. share: of everyone's transitions from the last POI.
"""

import jax.numpy as jnp

from ega_jax.models.features import (
  events,
  follows_last,
  last_visit,
  nearness,
  previous_visit,
  successors,
  sum_where_equal,
)

# Weights before tuning, where the request's time is unknown and where it is known.
START = {
  "half_life": (80.0, 80.0),  # visits
  "own": (3.0, 0.3),
  "context": (1.0, 1.0),
  "hour": (0.0, 10.0),
  "own_hour": (0.0, 10.0),
  "hour_width": (0.7, 0.7),  # hours, standard deviation of `near`
  "other_day": (0.1, 0.1),  # of `near` across the weekend's edge
  "again": (1.0, 0.2),  # of the count of the POI visited last, just after the visit
  "again_hours": (2.0, 2.0),  # in which that wears off
  "markov": (0.1, 0.1),
}
NAMES = tuple(START)
CONTEXT_WIDTH, CONTEXT_OTHER_DAY = 2.0, 0.3  # of `similar`
UNSEEN = 1e-5


def weights_of(offsets):
  """Returns f[2, W], NAMES by time unknown and known, of offsets f[2, W]: logarithms of their ratio to START."""
  return jnp.array([START[name] for name in NAMES]).T * jnp.exp(offsets)


def visit_counts(request, catalog, pois, offsets):
  """Returns f32[B, C] > 0 of POIs i32[B, C]; see the module.

  Args: request, catalog: `ega_jax.types`; offsets f32[2, W] of `weights_of`.
  """
  known = request.hour >= 0
  row = weights_of(offsets)[known.astype(jnp.int32)]
  w = {name: row[:, i, None] for i, name in enumerate(NAMES)}
  visit, _, _, rank = events(request)
  last, index = last_visit(request), jnp.arange(visit.shape[1])
  latest = jnp.where(visit > 0, index, 0).max(1, keepdims=True)
  before = previous_visit(visit)
  at = lambda column, where: jnp.take_along_axis(column, jnp.maximum(where, 0), axis=1)
  follows = follows_last(request, visit, last)
  age, hour = jnp.maximum(request.history_age, 0.0), request.history_hour
  similar = (before >= 0) * nearness(
    at(age, before) - at(age, latest), at(hour, before), at(hour, latest), CONTEXT_WIDTH, CONTEXT_OTHER_DAY
  )
  near = nearness(age, hour, request.hour[:, None], w["hour_width"], w["other_day"])
  weight = 1 + w["own"] * follows * (1 + w["context"] * similar) + near * (w["hour"] + w["own_hour"] * follows)
  weight = visit * 0.5 ** (rank / w["half_life"]) * weight
  size = catalog.poi_category.shape[0]
  count = sum_where_equal(request.history_poi, weight[..., None], pois, size)[..., 0]
  just = known[:, None] * jnp.exp(-jnp.square(at(age, latest) / w["again_hours"]))
  count = count * jnp.where(pois == last[:, None], 1 - (1 - w["again"]) * just, 1.0)
  count += w["markov"] * successors(request, pois, size)[1]
  return count + UNSEEN * jnp.exp(catalog.poi_popularity[jnp.maximum(pois, 0)])
