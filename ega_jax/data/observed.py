"""What the platform knew of all its POIs just before each request, as dense features of consecutive requests."""

import numpy as np

from ega_jax.data import market_config

RECENT = 64  # visits of a user that are remembered
HALF_LIFE = 40  # visits


class Observations:
  """Features of all POIs at requests that come in time order; nothing at or after a request enters.

  Args: behaviour: Behaviour, visits in time order; place f[P, 2], km; category i[P], in 0..num_categories - 1.
  """

  def __init__(self, behaviour, place, category, num_categories):
    self._behaviour, self._place, self._category = behaviour, place.astype(np.float32), category
    order, self._start = behaviour.by_user()
    self._poi, self._user_time = behaviour.poi[order], behaviour.time[order]
    self._span = int(behaviour.time.max()) + 2
    self._key = behaviour.user[order].astype(np.int64) * self._span + self._user_time
    self._squared = (self._place**2).sum(1)
    self._visits = np.zeros(behaviour.num_pois)
    self._by_hour = np.zeros([num_categories, 24])
    self._seen = 0

  def _recent(self, user, time):
    """Returns (row, poi, weight) of the users' last visits before `time`; weight .5^(n / 40), n = visits since."""
    end = np.searchsorted(self._key, user.astype(np.int64) * self._span + time)
    index = end[:, None] - 1 - np.arange(RECENT)
    row, back = np.nonzero(index >= self._start[user][:, None])
    return row, self._poi[index[row, back]], 0.5 ** (back / HALF_LIFE)

  def _advance(self, time):
    """Counts the visits before `time` (minutes)."""
    stop = int(np.searchsorted(self._behaviour.time, time))
    new = slice(self._seen, max(stop, self._seen))
    poi = self._behaviour.poi[new]
    self._visits += np.bincount(poi, minlength=len(self._visits))
    hour = market_config.hour_of_week(self._behaviour.time[new]) % 24
    cell = np.bincount(self._category[poi] * 24 + hour, minlength=self._by_hour.size)
    self._by_hour += cell.reshape(self._by_hour.shape)
    self._seen = new.stop

  def features(self, user, time, place, hour):
    """Returns dict of f32[n, P]: distance (km), own (recency-weighted visits), taste, popular, season.

    taste is the share of the POI's category in the own visits, popular the standardised log visits so far, season the
    category's log preference for the hour. The last two are as of the first request of the block.

    Args:
      user, time, place, hour: of consecutive requests, time non-decreasing.
    """
    self._advance(int(time[0]))
    n, num_pois = len(user), len(self._visits)
    row, poi, weight = self._recent(user, time)
    own = np.bincount(row * num_pois + poi, weight, n * num_pois).reshape(n, num_pois).astype(np.float32)
    leaves = len(self._by_hour)
    taste = np.bincount(row * leaves + self._category[poi], weight, n * leaves).reshape(n, leaves)
    taste = (taste / (taste.sum(1, keepdims=True) + 2)).astype(np.float32)
    squared = (place**2).sum(1)[:, None] - 2 * place @ self._place.T + self._squared
    popular = np.log1p(self._visits)
    popular = (popular - popular.mean()) / (popular.std() + 1e-6)
    kernel = np.exp(-0.5 * ((np.arange(24)[:, None] - np.arange(24) + 12) % 24 - 12.0) ** 2)
    counts = self._by_hour @ kernel
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / max(counts.sum(), 1)
    season = np.log((counts + 20) / (expected + 20)).astype(np.float32)
    return {
      "distance": np.sqrt(np.maximum(squared, 0)),
      "own": own,
      "taste": taste[:, self._category],
      "popular": np.broadcast_to(popular.astype(np.float32), own.shape),
      "season": season.T[hour % 24][:, self._category],
    }
