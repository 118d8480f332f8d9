"""Sizes and constants of a marketplace: numbers only, no arrays, nothing latent of any one world."""

import dataclasses
import zlib

import numpy as np

MINUTES_PER_HOUR = 60
HOURS_PER_WEEK = 168
HABIT_CAP = 10
START_MINUTE = 22_232_160  # Monday 2012-04-09 00:00, minutes since 1970-01-01: generated worlds begin here.


@dataclasses.dataclass(frozen=True)
class ClickModel:
  """Weights of the click model (our decision), in logits unless said otherwise; biases are calibrated per world."""

  interest: float = 0.50
  habit: float = 0.45  # per log(1 + visits of the pair), visits capped at HABIT_CAP
  hour: float = 0.40
  distance: float = 0.50  # per log(1 + km)
  quality: float = 0.30
  price: float = 0.25
  residual: float = 0.30  # standard deviation of a (user, POI) term that no feature explains
  creative: float = 0.30  # creative match inside the POI attraction
  substitute: float = 0.45  # same leaf category
  topic: float = 0.30  # positive part of the topics' cosine
  complement: float = 0.40  # complementary parent categories
  above: float = 1.0
  below: float = 0.4
  decay: float = 0.7  # per position of distance
  examination_slope: float = 0.10  # examination of position k (0-based) is 1 / (1 + slope * k)
  fatigue: float = 0.80  # examination factor per POI clicked above
  creative_gain: float = 0.7
  conversion_gain: float = 0.6
  bias: float = -3.0
  creative_bias: float = 0.6
  conversion_bias: float = -2.2


@dataclasses.dataclass(frozen=True)
class WorldConfig:
  """Sizes and constants of one marketplace.

  Presets: TINY, SMALL, LARGE, NEW_YORK. `num_users`, `num_pois` and the city's fields are ignored over real check-ins.
  """

  num_users: int = 2000
  num_pois: int = 1000
  num_requests: int = 30_000
  max_requests: int = 0  # 0: one request per visit
  num_ads: int = 200  # N
  num_organic: int = 50  # M
  list_length: int = 10  # K
  num_parents: int = 8
  leaves_per_parent: int = 6
  num_clusters: int = 12
  city_km: float = 16.0
  num_days: int = 180
  radius_km: float = 10.0  # targeting radius of ads
  advertiser_share: float = 0.5
  paused_share: float = 0.1  # chance that a campaign is paused for a request: its POI may then be organic
  level_log_sd: float = 1.09  # log-sd of the advertisers' levels m_i; iPinYou's campaigns: .84, 1.04, 1.09
  value_sigma: float = 0.6  # sigma_n of the lognormal values
  reserve: float = 0.05  # least price per click, in units of the median value
  recall: int = 70  # ads that the cascade ranks
  exploration: float = 0.2  # share of requests with explored lists
  exploration_power: float = 1.5  # Plackett-Luce weights are score ** power
  ad_share: float = 0.3
  click_rate: float = 0.05  # calibration targets
  creative_click_rate: float = 0.65  # given a POI click
  conversion_rate: float = 0.12  # given a POI click
  click: ClickModel = ClickModel()

  def __post_init__(self):
    positive = ("num_users", "num_pois", "num_requests", "num_ads", "num_organic", "list_length", "num_days", "recall")
    for name in positive:
      if getattr(self, name) < 1:
        raise ValueError(f"WorldConfig.{name} = {getattr(self, name)}, allowed: >= 1")
    for name in ("ad_share", "exploration", "click_rate", "conversion_rate", "creative_click_rate", "advertiser_share"):
      if not 0 < getattr(self, name) < 1:
        raise ValueError(f"WorldConfig.{name} = {getattr(self, name)}, allowed: in (0, 1)")
    if self.num_organic < self.list_length:
      raise ValueError(f"WorldConfig.num_organic = {self.num_organic}, allowed: >= list_length = {self.list_length}")


TINY = WorldConfig(
  num_users=64,
  num_pois=200,
  num_requests=1200,
  num_ads=8,
  num_organic=6,
  list_length=4,
  num_parents=4,
  leaves_per_parent=3,
  num_clusters=3,
  city_km=8.0,
  radius_km=20.0,
  recall=8,
)
SMALL = WorldConfig()
LARGE = WorldConfig(
  num_users=20_000,
  num_pois=5_000,
  num_requests=400_000,
  num_ads=1000,
  num_organic=200,
  num_parents=12,
  leaves_per_parent=10,
  num_clusters=40,
  city_km=30.0,
  radius_km=15.0,
  recall=150,
)
NEW_YORK = WorldConfig(num_parents=10, radius_km=12.0)
PRESETS = {"tiny": TINY, "small": SMALL, "large": LARGE, "new_york": NEW_YORK}


def stream(seed, name):
  """Returns the numpy Generator of one part of a world. Streams are independent: changing one part moves no other."""
  return np.random.default_rng([int(seed), zlib.crc32(name.encode())])


def hour_of_week(minute):
  """Returns the hour of the week, i64 0..167 with 0 = Monday 00:00, of minutes since 1970-01-01 (a Thursday)."""
  return (np.asarray(minute) // MINUTES_PER_HOUR + 72) % HOURS_PER_WEEK
