"""Random requests and catalogues, and a slow loop over history events as the oracle of the features."""

import math

import jax
import numpy as np
from flax import linen as nn

from ega_jax.types import Catalog, Request, SemanticIds


def catalog(rng, pois=30, creatives=3, content=6, style=5, categories=5):
  """Returns a Catalog of `pois` POIs with `creatives` creatives each (the last slot of some POIs is empty)."""
  table = np.arange(pois * creatives).reshape(pois, creatives)
  table[::4, -1] = -1
  category = rng.integers(0, categories, pois)
  return Catalog(
    poi_embedding=rng.normal(size=(pois, content)).astype(np.float32),
    poi_place=rng.normal(size=(pois, 2)).astype(np.float32) * 4,
    poi_category=category.astype(np.int32),
    poi_parent=(category // 2).astype(np.int32),
    poi_popularity=rng.exponential(2, pois).astype(np.float32),
    poi_creatives=table.astype(np.int32),
    creative_embedding=rng.normal(size=(pois * creatives, style)).astype(np.float32),
    creative_poi=np.repeat(np.arange(pois), creatives).astype(np.int32),
  )


def request(rng, cat, batch=5, events=12, candidates=11, organic=4, users=7, successors=6):
  """Returns a Request with padded histories, unknown hours, missing candidates and one empty history."""
  pois = cat.poi_category.shape[0]
  history = rng.integers(0, pois, (batch, events)).astype(np.int32)
  length = rng.integers(3, events + 1, batch)
  length[0] = 0
  history[np.arange(events)[None] < events - length[:, None]] = -1
  action = np.where(history >= 0, rng.choice([1, 1, 1, 2, 3], history.shape), 0).astype(np.int32)
  clicked = (action > 1) & (rng.random(history.shape) < 0.7)
  creative = np.where(clicked, cat.poi_creatives[np.maximum(history, 0), 0], -1).astype(np.int32)
  items = np.stack([rng.permutation(pois)[:candidates] for _ in range(batch)]).astype(np.int32)
  items[-1, -2:] = -1
  is_ad = (np.arange(candidates) >= organic)[None] & (items >= 0)
  follow = np.stack([rng.permutation(pois)[:successors] for _ in range(batch)]).astype(np.int32)
  follow[1, 2:] = -1
  hour = rng.integers(0, 168, batch).astype(np.int32)
  hour[-1] = -1
  return Request(
    user=rng.integers(0, users, batch).astype(np.int32),
    place=rng.normal(size=(batch, 2)).astype(np.float32),
    hour=hour,
    history_poi=history,
    history_creative=creative,
    history_action=action,
    history_hour=rng.integers(0, 168, history.shape).astype(np.int32),
    history_age=np.sort(rng.exponential(100, history.shape), axis=1)[:, ::-1].astype(np.float32),
    successor_poi=follow,
    successor_count=rng.integers(1, 9, follow.shape).astype(np.float32),
    candidates=items,
    is_ad=is_ad,
    bid=np.where(is_ad, rng.lognormal(size=items.shape), 0).astype(np.float32),
    value_mu=np.where(is_ad, rng.normal(size=items.shape), 0).astype(np.float32),
  )


def semantic_ids(rng, cat, levels=3, vocabulary=7, creative_levels=2):
  """Returns random SemanticIds for a catalogue."""
  poi = rng.integers(0, vocabulary, (cat.poi_category.shape[0], levels))
  creative = rng.integers(0, vocabulary, (cat.creative_poi.shape[0], creative_levels))
  return SemanticIds(poi=poi.astype(np.int32), creative=creative.astype(np.int32))


def hour_nearness(hour, age, now, width=2.0):
  """Returns the hour kernel of an event `age` hours ago, given both hours of the week."""
  if hour < 0 or now < 0:  # the mean over all hours of a week and all ages
    return np.mean([hour_nearness(a, g, 0, width) * 5 + hour_nearness(a, g, 150, width) * 2
                    for a in range(0, 168, 24) for g in np.arange(0, 24, 0.25)]) / 7  # fmt: skip
  gap = age % 24
  gap = min(gap, 24 - gap)
  return math.exp(-0.5 * (gap / width) ** 2) * (1.0 if (hour // 24 >= 5) == (now // 24 >= 5) else 0.4)


def _ratio(part, total):
  return part / total if total > 0 else 0.0


def _unit(vector):
  return vector / max(np.linalg.norm(vector), 1e-6)


def features(req, cat, b, poi):
  """Returns the features of one candidate `poi` of row `b` as a dict, by loops over the events."""
  events = [
    dict(
      poi=int(req.history_poi[b, h]), action=int(req.history_action[b, h]), age=float(req.history_age[b, h]),
      near=hour_nearness(int(req.history_hour[b, h]), float(req.history_age[b, h]), int(req.hour[b])),
      sharp=hour_nearness(int(req.history_hour[b, h]), float(req.history_age[b, h]), int(req.hour[b]), 0.75),
    )
    for h in range(req.history_poi.shape[1])
    if req.history_poi[b, h] >= 0
  ]
  visits = [e for e in events if e["action"] == 1]
  clicks = [e for e in events if e["action"] >= 2]
  for n, event in enumerate(reversed(visits)):
    event["slow"], event["fast"] = 0.5 ** (n / 160), 0.5 ** (n / 5)
    event["near"], event["sharp"] = event["slow"] * event["near"], event["slow"] * event["sharp"]
  last = visits[-1]["poi"] if visits else -1
  follows = [v["poi"] for u, v in zip(visits, visits[1:], strict=False) if u["poi"] == last]
  successors = [
    (int(p), float(n)) for p, n in zip(req.successor_poi[b], req.successor_count[b], strict=True) if p >= 0
  ]
  here = [v for v in visits if v["poi"] == poi]
  category, parent = int(cat.poi_category[poi]), int(cat.poi_parent[poi])
  in_category = [v for v in visits if cat.poi_category[v["poi"]] == category]
  in_parent = [v for v in visits if cat.poi_parent[v["poi"]] == parent]
  slow_total, hour_total = sum(v["slow"] for v in visits), sum(v["near"] for v in visits)
  follow = sum(n for p, n in successors if p == poi)
  distance = float(np.linalg.norm(cat.poi_place[poi] - req.place[b]))
  content = _unit(cat.poi_embedding[poi])
  zero = np.zeros(cat.poi_embedding.shape[1])
  visited = _unit(sum((v["slow"] * cat.poi_embedding[v["poi"]] for v in visits), zero))
  clicked = _unit(sum((cat.poi_embedding[c["poi"]] for c in clicks), zero))
  return dict(
    visits_slow=math.log1p(sum(v["slow"] for v in here)),
    visits_fast=sum(v["fast"] for v in here),
    visit_share=_ratio(sum(v["slow"] for v in here), slow_total),
    transitions=math.log1p(follows.count(poi)),
    transition_share=_ratio(follows.count(poi), len(follows)),
    successors=math.log1p(follow),
    successor_share=_ratio(follow, sum(n for _, n in successors)),
    hour=math.log1p(sum(v["near"] for v in here)),
    hour_share=_ratio(sum(v["near"] for v in here), hour_total),
    sharp_hour=math.log1p(sum(v["sharp"] for v in here)),
    sharp_hour_share=_ratio(sum(v["sharp"] for v in here), sum(v["sharp"] for v in visits)),
    day=sum(math.exp(-v["age"] / 24) for v in here),
    week=sum(math.exp(-v["age"] / 168) for v in here),
    clicks=math.log1p(sum(c["poi"] == poi for c in clicks)),
    conversions=math.log1p(sum(c["poi"] == poi and c["action"] == 3 for c in clicks)),
    category_share=_ratio(sum(v["slow"] for v in in_category), slow_total),
    parent_share=_ratio(sum(v["slow"] for v in in_parent), slow_total),
    category_click_share=_ratio(sum(cat.poi_category[c["poi"]] == category for c in clicks), len(clicks)),
    category_hour_share=_ratio(sum(v["near"] for v in in_category), hour_total),
    same_as_last=float(poi == last),
    same_category_as_last=float(last >= 0 and cat.poi_category[last] == category),
    popularity=float(cat.poi_popularity[poi]) / 5,
    log_distance=math.log1p(distance),
    nearness=math.exp(-distance / 2),
    visit_affinity=float(content @ visited),
    click_affinity=float(content @ clicked),
  )


def random_params(rng, boxed, scale=0.3):
  """Returns parameters of the shapes of a boxed tree, none of them 0: normals about 0, or about 1 for scales."""

  def draw(path, leaf):
    centre = 1.0 if "scale" in str(path[-1]) else 0.0
    return jax.numpy.asarray(centre + scale * rng.normal(size=leaf.shape), leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, nn.unbox(boxed))
