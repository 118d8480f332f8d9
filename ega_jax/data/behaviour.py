"""Visits: a time-sorted record of who was where, and their simulation by a choice model."""

import dataclasses

import numpy as np

from ega_jax.data import market_config

SETTLED_MINUTES = 6 * 60  # after this long without a visit a simulated user is at home or at work


@dataclasses.dataclass(frozen=True)
class Behaviour:
  """Visits of all users, sorted by time."""

  user: np.ndarray  # i32[E]
  poi: np.ndarray  # i32[E]
  time: np.ndarray  # i64[E]  minutes since 1970-01-01, local
  num_users: int
  num_pois: int

  def by_user(self):
    """Returns (order i64[E], start i64[U + 1]): events sorted by (user, time), and where each user's begin."""
    order = np.argsort(self.user, kind="stable")
    return order, np.searchsorted(self.user[order], np.arange(self.num_users + 1))


def _visit_times(config, rng):
  """Returns (user i32[E], time i64[E]) sorted by (user, time): lognormal activity, at least one visit per user."""
  activity = rng.lognormal(0, 0.5, config.num_users)
  extra = config.num_requests - config.num_users
  count = np.ones(config.num_users, np.int64)
  count += rng.multinomial(max(extra, 0), activity / activity.sum())
  user = np.repeat(np.arange(config.num_users), count)
  day_hour = np.arange(24)
  awake = np.where(day_hour < 7, 0.05, 1.0) + 0.8 * np.exp(-0.5 * ((day_hour - 12.5) / 1.5) ** 2)
  awake = awake + 1.2 * np.exp(-0.5 * ((day_hour - 19) / 2) ** 2)
  day = rng.integers(0, config.num_days, user.size)
  hour = rng.choice(24, user.size, p=awake / awake.sum())
  time = market_config.START_MINUTE + (day * 24 + hour) * 60 + rng.integers(0, 60, user.size)
  order = np.lexsort([time, user])
  return user[order].astype(np.int32), time[order].astype(np.int64)


def _settled_place(latents, user, time):
  """Returns f32[n, 2]: at work on weekdays from 9 to 17 o'clock, else at home."""
  hour = market_config.hour_of_week(time)
  at_work = (hour < 120) & (hour % 24 >= 9) & (hour % 24 < 17)
  return np.where(at_work[:, None], latents.user_work[user], latents.user_home[user])


def whereabouts(latents, user, time, last_poi, last_time):
  """Returns f32[n, 2], km: at the last visited POI, or settled (home, work) if that was SETTLED_MINUTES ago or more, or
  never.

  Args: latents: Latents; user i[n]; time, last_time i64[n], minutes since 1970-01-01; last_poi i[n], -1 for none.
  """
  recent = (last_poi >= 0) & (time - last_time < SETTLED_MINUTES)
  return np.where(recent[:, None], latents.poi_place[last_poi], _settled_place(latents, user, time))


def _choose(log_weight, rng):
  """Returns i64[n]: one column per row with probability proportional to exp(log_weight [n, P])."""
  weight = np.exp(log_weight - log_weight.max(1, keepdims=True))
  cumulative = np.cumsum(weight, axis=1, dtype=np.float64)
  point = rng.random(len(weight)) * cumulative[:, -1]
  return np.minimum((cumulative < point[:, None]).sum(1), weight.shape[1] - 1)


def _simulate_users(latents, users, first, count, time, rng):
  """Returns the POIs visited by `users` (most active first), [E'] in their (user, time) order.

  Choice log-odds: interest + popularity + category by hour + distance from where the user is + habit + transitions.
  """
  interest = latents.user_topic[users] @ latents.poi_topic.T / np.sqrt(latents.poi_topic.shape[1])
  fixed = 1.3 * interest + latents.poi_base + 0.3 * latents.poi_quality
  visited = np.zeros(fixed.shape, np.float32)
  poi = np.full(time.size, -1, np.int64)
  last_poi, last_time = np.full(users.size, -1), np.zeros(users.size, np.int64)
  squared = (latents.poi_place**2).sum(1)
  for step in range(int(count.max())):
    n = int((count > step).sum())
    now = time[first[:n] + step]
    place = whereabouts(latents, users[:n], now, last_poi[:n], last_time[:n])
    distance = np.sqrt(np.maximum((place**2).sum(1)[:, None] - 2 * place @ latents.poi_place.T + squared, 0))
    by_category = 0.8 * latents.category_hour[:, market_config.hour_of_week(now)].T
    moved = last_poi[:n] >= 0
    by_category += 0.6 * latents.category_transition[latents.poi_category[last_poi[:n]]] * moved[:, None]
    odds = fixed[:n] - 1.5 * np.log1p(distance) + by_category[:, latents.poi_category] + 2.2 * np.log1p(visited[:n])
    odds[np.arange(n), last_poi[:n]] -= 3.0 * moved
    chosen = _choose(odds, rng)
    poi[first[:n] + step] = chosen
    visited[np.arange(n), chosen] += 1
    last_poi[:n], last_time[:n] = chosen, now
  return poi


def simulate(latents, config, seed, block=2000):
  """Returns the Behaviour of a generated city: `config.num_requests` visits (at least one per user).

  Args: latents: Latents; config: WorldConfig; block: users simulated at once; the draws depend on it.
  """
  rng = market_config.stream(seed, "behaviour")
  user, time = _visit_times(config, rng)
  start = np.searchsorted(user, np.arange(config.num_users + 1))
  count = np.diff(start)
  busiest = np.argsort(-count, kind="stable")
  poi = np.full(user.size, -1, np.int64)
  for begin in range(0, config.num_users, block):
    users = busiest[begin : begin + block]
    chosen = _simulate_users(latents, users, start[users], count[users], time, rng)
    poi = np.maximum(poi, chosen)
  order = np.argsort(time, kind="stable")
  return Behaviour(user[order], poi[order].astype(np.int32), time[order], config.num_users, config.num_pois)
