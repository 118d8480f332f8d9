"""The marketplace's truth: click probabilities of any list, and values. Only data/ and evaluation/ may import this."""

import dataclasses
import json

import numpy as np

from ega_jax.data import market_config
from ega_jax.data.arrays import load_arrays

BLOCK = 1 << 17  # list positions handled at once: bounds the memory of the pairwise terms


def sigmoid(x):
  """Returns 1 / (1 + exp(-x)) without overflow."""
  return 0.5 * (1 + np.tanh(0.5 * x))


def pair_noise(seed, a, b):
  """Returns f64, about standard normal, fixed for (seed, a, b): sum of the four 16-bit parts of a SplitMix64 hash."""
  x = np.atleast_1d(np.asarray(a, np.uint64)) * np.uint64(0x9E3779B97F4A7C15) + np.asarray(b, np.uint64)
  x = x + np.uint64(int(seed) * 0xD1342543DE82EF95 % (1 << 64))
  for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
    x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
  x = x ^ (x >> np.uint64(31))
  parts = sum(((x >> np.uint64(16 * i)) & np.uint64(0xFFFF)).astype(np.float64) for i in range(4))
  return (parts / 65536 - 2) * np.sqrt(3.0)


def habit_table(behaviour):
  """Returns (keys i64[n] sorted, log(1 + capped visits) f32[n]) of the (user, POI) pairs of the whole record."""
  keys, counts = np.unique(behaviour.user.astype(np.int64) * behaviour.num_pois + behaviour.poi, return_counts=True)
  return keys, np.log1p(np.minimum(counts, market_config.HABIT_CAP)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class World:
  """Everything that decides clicks and values; sizes as in Latents, and rows = all requests with C candidates.

  Lists are positions in the request's candidates, -1 for an empty slot (probability 0, invisible to the others).
  """

  user_topic: np.ndarray  # f32[U, T]
  user_price: np.ndarray  # f32[U]
  user_taste: np.ndarray  # f32[U, Z]
  poi_topic: np.ndarray  # f32[P, T]
  poi_quality: np.ndarray  # f32[P]
  poi_price: np.ndarray  # f32[P]
  poi_place: np.ndarray  # f32[P, 2]
  poi_category: np.ndarray  # i32[P]
  poi_parent: np.ndarray  # i32[P]
  category_hour: np.ndarray  # f32[F, 168]
  complement: np.ndarray  # f32[G, G]
  style: np.ndarray  # f32[Q, Z]
  appeal: np.ndarray  # f32[Q]
  poi_creatives: np.ndarray  # i32[P, R]
  habit_key: np.ndarray  # i64[n]  user * P + poi, sorted
  habit_value: np.ndarray  # f32[n]
  request_user: np.ndarray  # i32[rows]
  request_place: np.ndarray  # f32[rows, 2]
  request_hour: np.ndarray  # i32[rows]
  candidates: np.ndarray  # i32[rows, C]
  value: np.ndarray  # f32[rows, C]  per click, organic and padding 0
  noise_seed: int
  click: market_config.ClickModel

  def values(self, rows):
    """Returns f64[n, C]: every candidate's value per click (organic and padding 0)."""
    return self.value[rows].astype(np.float64)

  def pois(self, rows, items):
    """Returns i32[n, ..., K]: the POI ids of list positions, -1 for empty slots.

    Raises:
      ValueError: a position outside the candidates, or of a candidate that does not exist.
    """
    items = np.asarray(items)
    if items.size and (items.min() < -1 or items.max() >= self.candidates.shape[1]):
      raise ValueError(f"items in [{items.min()}, {items.max()}], allowed: -1..{self.candidates.shape[1] - 1}")
    found = self.candidates[_like(rows, items), np.maximum(items, 0)]
    if (found[items >= 0] < 0).any():
      raise ValueError("items: a position holds -1 in the request's candidates, allowed: existing candidates")
    return np.where(items >= 0, found, -1)

  def components(self, rows, pois):
    """Returns dict of f64[n, ...]: the unweighted terms of the affinity of POIs at requests `rows` i64[n]."""
    rows = _like(rows, pois)
    user = self.request_user[rows]
    offset = self.request_place[rows] - self.poi_place[pois]
    key = user.astype(np.int64) * len(self.poi_quality) + pois
    slot = np.minimum(np.searchsorted(self.habit_key, key), len(self.habit_key) - 1)
    topics = self.poi_topic.shape[1]
    return {
      "interest": np.einsum("...t,...t->...", self.user_topic[user], self.poi_topic[pois]) / np.sqrt(topics),
      "habit": np.where(self.habit_key[slot] == key, self.habit_value[slot], 0),
      "hour": self.category_hour[self.poi_category[pois], self.request_hour[rows]],
      "distance": -np.log1p(np.sqrt((offset**2).sum(-1))),
      "quality": self.poi_quality[pois],
      "price": -self.user_price[user] * self.poi_price[pois],
      "residual": pair_noise(self.noise_seed, user, pois),
    }

  def affinity(self, rows, pois):
    """Returns f64[n, ...]: the attraction logit of a POI alone, bias included, creative excluded."""
    return self.click.bias + sum(getattr(self.click, k) * v for k, v in self.components(rows, pois).items())

  def creative_match(self, rows, creatives):
    """Returns f64[n, ...]: appeal + the user's taste for the creative's style (0 for creative -1)."""
    creatives = np.asarray(creatives)
    taste = self.user_taste[self.request_user[_like(rows, creatives)]]
    match = self.appeal[creatives] + np.einsum("...z,...z->...", taste, self.style[creatives])
    return np.where(creatives >= 0, match, 0).astype(np.float64)

  def best_creatives(self, rows, pois):
    """Returns i32[n, ...]: each POI's own creative with the greatest match (-1 for POI -1)."""
    own = self.poi_creatives[pois]
    match = np.where(own >= 0, self.creative_match(rows, own), -np.inf)
    best = np.take_along_axis(own, match.argmax(-1)[..., None], -1)[..., 0]
    return np.where(np.asarray(pois) >= 0, best, -1)

  def externality(self, pois):
    """Returns f64[..., K]: sum over the other items j of strength * similarity(i, j) * decay^(distance - 1)."""
    click, length = self.click, pois.shape[-1]
    topic = self.poi_topic[pois].astype(np.float32)
    topic = topic / np.sqrt((topic**2).sum(-1, keepdims=True))
    cosine = np.maximum(topic @ np.swapaxes(topic, -1, -2), 0)
    leaf, parent = self.poi_category[pois], self.poi_parent[pois]
    similarity = click.complement * self.complement[parent[..., :, None], parent[..., None, :]]
    similarity = similarity - click.substitute * (leaf[..., :, None] == leaf[..., None, :]) - click.topic * cosine
    gap = np.arange(length)[:, None] - np.arange(length)  # positive: j stands above i
    strength = np.where(gap > 0, click.above, click.below) * click.decay ** (np.abs(gap) - 1.0) * (gap != 0)
    present = pois >= 0
    return (similarity * strength * present[..., None, :]).sum(-1) * present

  def logit(self, rows, pois, creatives):
    """Returns f64[n, ..., K]: affinity + externalities + creative match."""
    match = self.click.creative * self.creative_match(rows, creatives)
    return self.affinity(rows, pois) + self.externality(pois) + match

  def attraction(self, rows, pois, creatives):
    """Returns f64[n, ..., K]: P(POI click | examined) of each item in its list, 0 for empty slots."""
    return np.where(pois >= 0, sigmoid(self.logit(rows, pois, creatives)), 0.0)

  def given_click(self, rows, pois, creatives):
    """Returns (P(creative click | POI click), P(conversion | POI click)), each f64[n, ..., K]."""
    click = self.click
    creative = sigmoid(click.creative_bias + click.creative_gain * self.creative_match(rows, creatives))
    part = self.components(rows, pois)
    logit = part["interest"] + 0.5 * part["habit"] + 0.5 * part["quality"] + 0.5 * part["price"]
    return creative, sigmoid(click.conversion_bias + click.conversion_gain * logit)

  def examination(self, length):
    """Returns f64[K]: the chance to look at a position when nothing was clicked above."""
    return 1 / (1 + self.click.examination_slope * np.arange(length))

  def click_probabilities(self, rows, items, creatives):
    """Returns marginal probabilities (poi, creative, conversion), each f64[n, ..., K], of every item of the lists.

    Exact over what was clicked above: P(examine position k | c clicks above) = examination[k] * fatigue^c.

    Args:
      rows: i64[n] requests.
      items: i32[n, ..., K] positions in the candidates, -1 empty.
      creatives: i32[n, ..., K] creative ids.

    Raises:
      ValueError: shapes that do not fit, or an item as in `pois`.
    """
    rows, items = np.asarray(rows), np.asarray(items)
    creatives = np.asarray(creatives)
    if creatives.shape != items.shape or items.shape[:1] != rows.shape:
      shapes = f"rows {rows.shape}, items {items.shape}, creatives {creatives.shape}"
      raise ValueError(f"{shapes}, allowed: [n], [n,...,K] twice")
    block = max(1, BLOCK // max(items[:1].size, 1))
    parts = [self._marginals(*(x[i : i + block] for x in (rows, items, creatives))) for i in range(0, len(rows), block)]
    if not parts:
      return tuple(np.zeros(items.shape) for _ in range(3))
    return tuple(np.concatenate(x) for x in zip(*parts, strict=True))

  def _marginals(self, rows, items, creatives):
    pois = self.pois(rows, items)
    poi = marginal_clicks(self.attraction(rows, pois, creatives), self.examination(items.shape[-1]), self.click.fatigue)
    creative, conversion = self.given_click(rows, pois, creatives)
    return poi, poi * creative, poi * conversion

  def sample(self, rows, items, creatives, rng):
    """Returns (click, creative_click, conversion), each i8[n, K], drawn by the generative process from the top down.

    Args: rows i64[n] requests; items i32[n, K] positions in the candidates, -1 empty; creatives i32[n, K] ids; rng:
      numpy Generator.
    """
    pois = self.pois(rows, items)
    attraction = self.attraction(rows, pois, creatives)
    creative, conversion = self.given_click(rows, pois, creatives)
    uniform = rng.random((3,) + items.shape)
    examination, clicked = self.examination(items.shape[-1]), np.zeros(len(rows))
    click = np.zeros(items.shape, bool)
    for k in range(items.shape[-1]):
      click[:, k] = uniform[0, :, k] < attraction[:, k] * examination[k] * self.click.fatigue**clicked
      clicked += click[:, k]
    return tuple(x.astype(np.int8) for x in (click, click & (uniform[1] < creative), click & (uniform[2] < conversion)))

  def save(self, path):
    """Writes the truth to one .npz file."""
    arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("click", "noise_seed")}
    numbers = json.dumps({"noise_seed": self.noise_seed, "click": dataclasses.asdict(self.click)})
    np.savez(path, numbers=np.array(numbers), **arrays)

  @classmethod
  def load(cls, path):
    """Returns the World written by `save`. Raises ValueError naming the file if it is damaged or fields are missing."""
    stored = load_arrays(path)
    names = {f.name for f in dataclasses.fields(cls)} - {"click", "noise_seed"}
    missing = sorted((names | {"numbers"}) - set(stored))
    if missing:
      raise ValueError(f"{path}: not a world file, fields missing: {', '.join(missing)}")
    numbers = json.loads(str(stored["numbers"]))
    click = market_config.ClickModel(**numbers["click"])
    return cls(**{name: stored[name] for name in names}, noise_seed=numbers["noise_seed"], click=click)


def _like(rows, x):
  """Returns rows [n] with trailing axes of size 1, to broadcast against x [n, ...]."""
  return np.asarray(rows).reshape((-1,) + (1,) * (np.ndim(x) - 1))


def marginal_clicks(attraction, examination, fatigue):
  """Returns f64[..., K]: marginal click probabilities where P(examine k | c clicks above) = examination[k] * fatigue^c.

  Args:
    attraction: f64[..., K] click probability once examined.
    examination: f64[K].
    fatigue: factor per click above.
  """
  length = attraction.shape[-1]
  above = np.zeros(attraction.shape[:-1] + (length + 1,))
  above[..., 0] = 1
  factor = fatigue ** np.arange(length + 1.0)
  out = np.empty(attraction.shape)
  for k in range(length):
    clicked = above[..., : k + 1] * (attraction[..., k, None] * examination[k] * factor[: k + 1])
    out[..., k] = clicked.sum(-1)
    above[..., : k + 1] -= clicked
    above[..., 1 : k + 2] += clicked
  return out
