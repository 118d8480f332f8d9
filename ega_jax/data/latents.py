"""The marketplace's hidden properties of POIs, users, creatives and advertisers: drawn, or fitted to real check-ins."""

import dataclasses

import numpy as np

from ega_jax.data import market_config

NUM_TOPICS = 8
NUM_STYLES = 6
TEXT_DIM = 32
CREATIVE_DIM = 16
MAX_CREATIVES = 5


@dataclasses.dataclass(frozen=True)
class Latents:
  """Sizes: U users, P POIs, Q creatives, R creatives per POI, T topics, Z styles, F leaf and G parent categories."""

  user_topic: np.ndarray  # f32[U, T]
  user_price: np.ndarray  # f32[U]     price sensitivity
  user_taste: np.ndarray  # f32[U, Z]  over creative styles
  user_home: np.ndarray  # f32[U, 2]  km
  user_work: np.ndarray  # f32[U, 2]
  poi_topic: np.ndarray  # f32[P, T]
  poi_quality: np.ndarray  # f32[P]
  poi_price: np.ndarray  # f32[P]
  poi_place: np.ndarray  # f32[P, 2]  km
  poi_category: np.ndarray  # i32[P]
  poi_parent: np.ndarray  # i32[P]
  poi_base: np.ndarray  # f32[P]     log popularity weight of the choice model
  poi_text: np.ndarray  # f32[P, D]  observed text embedding
  category_hour: np.ndarray  # f32[F, 168]  log preference
  category_transition: np.ndarray  # f32[F, F] log preference for the next category
  complement: np.ndarray  # f32[G, G]  1 where two parent categories help each other
  style: np.ndarray  # f32[Q, Z]
  appeal: np.ndarray  # f32[Q]     a creative's appeal to everyone
  creative_poi: np.ndarray  # i32[Q]
  poi_creatives: np.ndarray  # i32[P, R]  -1 padded
  advertises: np.ndarray  # bool[P]
  level: np.ndarray  # f32[P]     log m_i


def _standard(x, axis=0):
  return ((x - x.mean(axis)) / (x.std(axis) + 1e-6)).astype(np.float32)


def _category_hours(parent_of_leaf, rng):
  """Returns f32[F, 168]: two daily peaks per parent, moved a little per leaf, with a weekend factor."""
  num_leaves = parent_of_leaf.size
  hours = np.arange(market_config.HOURS_PER_WEEK)
  day_hour, weekend = hours % 24, hours >= 120
  peaks = rng.uniform(7, 23, [parent_of_leaf.max() + 1, 2])[parent_of_leaf] + rng.normal(0, 0.7, [num_leaves, 2])
  phase = np.cos((day_hour - peaks[..., None]) * np.pi / 12)
  shape = np.exp(3 * (phase - 1)).sum(1) + 0.05
  shape = shape * np.exp(rng.normal(0, 0.5, num_leaves)[:, None] * weekend)
  log_shape = np.log(shape)
  return (log_shape - log_shape.mean(1, keepdims=True)).astype(np.float32)


def _complements(num_parents, rng):
  """Returns f32[G, G], symmetric 0/1, zero diagonal: every parent category has at least one complement."""
  pairs = rng.random([num_parents, num_parents]) < 0.15
  pairs |= np.roll(np.eye(num_parents, dtype=bool), 1, axis=1)
  pairs |= pairs.T
  np.fill_diagonal(pairs, False)
  return pairs.astype(np.float32)


def _creatives(num_pois, rng):
  """Returns the creative fields: 3..5 per POI, with style vectors and appeal."""
  count = rng.integers(3, MAX_CREATIVES + 1, num_pois)
  first = np.cumsum(count) - count
  slots = np.arange(MAX_CREATIVES)
  poi_creatives = np.where(slots < count[:, None], first[:, None] + slots, -1).astype(np.int32)
  total = int(count.sum())
  return {
    "poi_creatives": poi_creatives,
    "creative_poi": np.repeat(np.arange(num_pois), count).astype(np.int32),
    "style": rng.standard_normal([total, NUM_STYLES]).astype(np.float32) / np.float32(np.sqrt(NUM_STYLES)),
    "appeal": (0.6 * rng.standard_normal(total)).astype(np.float32),
  }


def _advertisers(num_pois, config, rng):
  """Returns who advertises and log m_i; the levels' shape is lognormal, as that of real clearing prices."""
  advertises = np.zeros(num_pois, bool)
  advertises[rng.permutation(num_pois)[: round(config.advertiser_share * num_pois)]] = True
  return {
    "advertises": advertises,
    "level": (config.level_log_sd * rng.standard_normal(num_pois)).astype(np.float32),
  }


def _tastes(num_users, rng):
  return {
    "user_price": rng.standard_normal(num_users).astype(np.float32),
    "user_taste": rng.standard_normal([num_users, NUM_STYLES]).astype(np.float32),
  }


def draw(config, seed):
  """Returns the Latents of a generated city."""
  rng = market_config.stream(seed, "city")
  num_leaves = config.num_parents * config.leaves_per_parent
  parent_of_leaf = np.arange(num_leaves) // config.leaves_per_parent
  centres = rng.uniform(0, config.city_km, [config.num_clusters, 2])
  weight = rng.dirichlet(np.full(config.num_clusters, 3.0))

  def places(count, spread):
    return (centres[rng.choice(config.num_clusters, count, p=weight)] + rng.normal(0, spread, [count, 2])).astype("f4")

  category = rng.choice(num_leaves, config.num_pois, p=rng.dirichlet(np.full(num_leaves, 2.0))).astype(np.int32)
  parent_topic = rng.standard_normal([config.num_parents, NUM_TOPICS])
  leaf_topic = parent_topic[parent_of_leaf] + 0.8 * rng.standard_normal([num_leaves, NUM_TOPICS])
  poi_topic = _standard(leaf_topic[category] + 0.6 * rng.standard_normal([config.num_pois, NUM_TOPICS]))
  quality = rng.standard_normal(config.num_pois).astype(np.float32)
  parent_text = rng.standard_normal([config.num_parents, TEXT_DIM])
  leaf_text = parent_text[parent_of_leaf] + 0.7 * rng.standard_normal([num_leaves, TEXT_DIM])
  return Latents(
    user_topic=rng.standard_normal([config.num_users, NUM_TOPICS]).astype(np.float32),
    user_home=places(config.num_users, 1.5),
    user_work=places(config.num_users, 0.8),
    poi_topic=poi_topic,
    poi_quality=quality,
    poi_price=rng.standard_normal(config.num_pois).astype(np.float32),
    poi_place=places(config.num_pois, 1.0),
    poi_category=category,
    poi_parent=parent_of_leaf[category].astype(np.int32),
    poi_base=(0.9 * rng.standard_normal(config.num_pois) + 0.4 * quality).astype(np.float32),
    poi_text=leaf_text[category].astype(np.float32),
    category_hour=_category_hours(parent_of_leaf, rng),
    category_transition=rng.standard_normal([num_leaves, num_leaves]).astype(np.float32),
    complement=_complements(config.num_parents, rng),
    **_tastes(config.num_users, market_config.stream(seed, "tastes")),
    **_creatives(config.num_pois, market_config.stream(seed, "creatives")),
    **_advertisers(config.num_pois, config, market_config.stream(seed, "advertisers")),
  )


def _cluster(points, count, rng, rounds=20):
  """Returns i32[n]: the cluster of every point, by Lloyd's algorithm from `count` distinct random points."""
  centres = points[rng.permutation(len(points))[:count]]
  for _ in range(rounds):
    nearest = np.argmin((centres**2).sum(1) - 2 * points @ centres.T, axis=1)
    for cluster in range(len(centres)):
      if (nearest == cluster).any():
        centres[cluster] = points[nearest == cluster].mean(0)
  return nearest.astype(np.int32)


def _principal(x, dim):
  """Returns f32[n, dim]: the leading principal components of x, zero-padded, scaled to unit variance overall."""
  centred = np.asarray(x, np.float64) - np.asarray(x, np.float64).mean(0)
  values, vectors = np.linalg.eigh(centred.T @ centred)
  vectors = vectors[:, ::-1][:, :dim]
  vectors = vectors * np.where(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])] < 0, -1, 1)
  out = np.zeros([len(centred), dim], np.float32)
  out[:, : vectors.shape[1]] = centred @ vectors
  return out / max(float(out.std()), 1e-6)


def _observed_hours(category, hour, num_leaves):
  """Returns f32[F, 168]: smoothed log ratio of a category's check-ins by hour to everyone's, clipped to +-2."""
  counts = np.bincount(category * 168 + hour, minlength=num_leaves * 168).reshape(num_leaves, 168).astype(float)
  near = np.abs(np.arange(168)[:, None] - np.arange(168))
  kernel = np.exp(-0.5 * (np.minimum(near, 168 - near) / 1.5) ** 2) + 0.5 * (near % 24 == 0)
  counts = counts @ kernel
  total = counts.sum(0)
  expected = counts.sum(1, keepdims=True) * total / total.sum()
  return np.clip(np.log((counts + 20) / (expected + 20)), -2, 2).astype(np.float32)


def fit(checkins, config, seed):
  """Returns the Latents over real check-ins.

  Interests are the mean topics of the POIs in a user's whole record (the truth may see the future). POI topics come
  from the category's text and a seeded draw, never from visits, so that observed embeddings hold nothing of the future.

  Args: checkins: data.checkins.Checkins; config: WorldConfig, of which num_parents and the advertisers' share and
    levels are read; seed: of all that is drawn.
  """
  rng = market_config.stream(seed, "city")
  num_pois, num_users = len(checkins.poi_ids), len(checkins.user_ids)
  category = np.asarray(checkins.category, np.int32)
  num_leaves = len(checkins.category_names)
  leaf_text = market_config.stream(seed, "text").standard_normal([num_leaves, TEXT_DIM])
  if checkins.embedding is not None:
    text = np.asarray(checkins.embedding, np.float32)
    total = np.zeros([num_leaves, text.shape[1]])
    np.add.at(total, category, text)
    leaf_text = total / np.maximum(np.bincount(category, minlength=num_leaves), 1)[:, None]
  leaf_text = _principal(leaf_text, TEXT_DIM)
  parent_of_leaf = _cluster(leaf_text, min(config.num_parents, num_leaves), rng)
  leaf_topic = _standard(leaf_text @ rng.standard_normal([TEXT_DIM, NUM_TOPICS]))
  poi_topic = _standard(leaf_topic[category] + 0.6 * rng.standard_normal([num_pois, NUM_TOPICS]))
  visits = np.bincount(checkins.user, minlength=num_users)[:, None]
  total = np.zeros([num_users, NUM_TOPICS])
  np.add.at(total, checkins.user, poi_topic[checkins.poi])
  user_topic = _standard(total / (visits + 5.0))
  hour = market_config.hour_of_week(checkins.time)
  nowhere = np.zeros([num_users, 2], np.float32)
  return Latents(
    user_topic=user_topic,
    user_home=nowhere,
    user_work=nowhere,
    poi_topic=poi_topic,
    poi_quality=rng.standard_normal(num_pois).astype(np.float32),
    poi_price=rng.standard_normal(num_pois).astype(np.float32),
    poi_place=np.asarray(checkins.place, np.float32),
    poi_category=category,
    poi_parent=parent_of_leaf[category],
    poi_base=np.zeros(num_pois, np.float32),
    poi_text=leaf_text[category],
    category_hour=_observed_hours(category[checkins.poi], hour, num_leaves),
    category_transition=np.zeros([num_leaves, num_leaves], np.float32),
    complement=_complements(int(parent_of_leaf.max()) + 1, rng),
    **_tastes(num_users, market_config.stream(seed, "tastes")),
    **_creatives(num_pois, market_config.stream(seed, "creatives")),
    **_advertisers(num_pois, config, market_config.stream(seed, "advertisers")),
  )


def observed_embeddings(latents, seed):
  """Returns (f32[P, D + T + 1], f32[Q, 16]): text with noisy topics and quality; a noisy map of the styles."""
  rng = market_config.stream(seed, "embeddings")
  hidden = np.concatenate([latents.poi_topic, latents.poi_quality[:, None]], 1)
  hidden = hidden + 0.5 * rng.standard_normal(hidden.shape)
  poi = np.concatenate([latents.poi_text, hidden], 1).astype(np.float32)
  seen = np.concatenate([latents.style, latents.appeal[:, None]], 1)
  image = seen @ rng.standard_normal([seen.shape[1], CREATIVE_DIM])
  return poi, (image + 0.2 * rng.standard_normal(image.shape)).astype(np.float32)
