"""Markets with permutation externalities: the JSON format, its checks, and click probabilities of every ordered list.

theta_i(A) = q_i * position[slot(i)] * exp(sum_{j in A, j != i} g_ij s_ij), with g_ij = above * decay^(d-1) where j
stands d slots above i and below * decay^(d-1) where d slots below. numpy, float64.
"""

import dataclasses
import itertools
import json
import math

import numpy as np

from ega_jax.auction import values as values_lib

_FIELDS = {"name", "slots", "quality", "position", "similarity", "externality", "values", "bids"}
_MAX_LISTS = 200_000
# A click probability ends at 1, and money long before float64; far beyond, sums and ratios of prices are no numbers.
_MAX_CLICKS, _MAX_MONEY = 1e6, 1e100


@dataclasses.dataclass(frozen=True)
class Market:
  """A checked market."""

  name: str
  slots: int  # K
  quality: np.ndarray  # f64[N]     click probability in the first slot without neighbours
  position: np.ndarray  # f64[K]
  similarity: np.ndarray  # f64[N, N]  zero diagonal
  above: float
  below: float
  decay: float
  distributions: tuple  # one per ad
  bids: np.ndarray | None  # f64[profiles, N]

  @property
  def num_ads(self):
    """How many advertisers bid."""
    return len(self.quality)


def _fail(field, value, allowed):
  raise ValueError(f"market: {field} = {value!r}: must be {allowed}")


def _array(field, value, shape, *, low=0.0, allowed):
  """Returns value as f64 of `shape` (-1: any), refusing anything that is no finite number or is below `low`."""
  try:
    array = np.array(value, np.float64)
  except (TypeError, ValueError, OverflowError):
    _fail(field, value, allowed)
  if array.ndim != len(shape) or any(want not in (-1, have) for want, have in zip(shape, array.shape, strict=True)):
    _fail(field, f"array of shape {array.shape}", allowed)
  flat = [v for v in np.array(value, dtype=object).ravel() if isinstance(v, bool | str) or v is None]
  bad = flat or array[~(np.isfinite(array) & (array >= low))].tolist()
  if bad:
    _fail(field, bad[0], allowed)
  return array


def from_dict(spec):
  """Returns the Market of a decoded JSON object.

  Raises:
    ValueError: naming the field, the value and what is allowed: unknown or missing fields, sizes that do not fit, NaN,
      negative or infinite numbers (bids, qualities), qualities above 1, an unknown distribution, too many lists,
      numbers so large that prices would not be finite.
  """
  if not isinstance(spec, dict):
    _fail("file", type(spec).__name__, "a JSON object")
  if unknown := sorted(set(spec) - _FIELDS):
    _fail("field", unknown[0], f"one of {sorted(_FIELDS)}")
  if missing := sorted({"slots", "quality", "position", "values"} - set(spec)):
    _fail(missing[0], None, "given")
  quality = _array("quality", spec["quality"], (-1,), allowed="a list of click probabilities in [0, 1], one per ad")
  num_ads, slots = len(quality), spec["slots"]
  if num_ads < 1 or quality.max() > 1:
    _fail("quality", quality.tolist(), "one click probability in [0, 1] per ad, at least one ad")
  if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
    _fail("slots", slots, "an integer >= 1")
  position = _array("position", spec["position"], (slots,), allowed=f"{slots} finite factors >= 0, one per slot")
  similarity = np.zeros((num_ads, num_ads))
  if spec.get("similarity") is not None:
    allowed = f"a {num_ads} x {num_ads} matrix of finite numbers"
    similarity = _array("similarity", spec["similarity"], (num_ads, num_ads), low=-math.inf, allowed=allowed)
    np.fill_diagonal(similarity, 0.0)
  bids = spec.get("bids")
  if bids is not None:
    bids = _array("bids", bids, (-1, num_ads), allowed=f"profiles of {num_ads} finite bids >= 0")
  market = Market(
    name=str(spec.get("name", "market")), slots=slots, quality=quality, position=position, similarity=similarity,
    distributions=_distributions(spec["values"], num_ads), bids=bids, **_externality(spec),
  )
  _check_sizes(market)
  return market


def _externality(spec):
  given = spec.get("externality") or {}
  default = {"above": 0.0, "below": 0.0, "decay": 1.0}
  if not isinstance(given, dict) or set(given) - set(default):
    _fail("externality", given, f"an object of {sorted(default)}")
  if spec.get("similarity") is not None and not {"above", "below"} <= set(given):
    _fail("externality", given, 'given with "above" and "below" where there is a similarity')
  for name, value in given.items():
    if not values_lib.is_number(value):
      _fail(f"externality.{name}", value, "a finite number")
  if given.get("decay", 1.0) < 0:
    _fail("externality.decay", given["decay"], "at least 0")
  return {**default, **given}


def _distributions(spec, num_ads):
  if isinstance(spec, list) and len(spec) != num_ads:
    _fail("values", f"a list of {len(spec)}", f"one distribution, or a list of {num_ads}")
  each = spec if isinstance(spec, list) else [spec] * num_ads
  try:
    return tuple(values_lib.from_spec(one) for one in each)
  except ValueError as error:
    raise ValueError(f"market: {error}") from None


def _check_sizes(market):
  lengths = range(min(market.slots, market.num_ads) + 1)
  count = sum(math.perm(market.num_ads, k) for k in lengths)
  if count > _MAX_LISTS:
    here = count if count < 10**12 else "more than 10^12"  # Python prints no integer of thousands of digits
    _fail("slots", market.slots, f"small enough for at most {_MAX_LISTS} ordered lists ({here} here)")
  with np.errstate(over="ignore", invalid="ignore"):
    largest = click_probabilities(market, ordered_lists(market.num_ads, market.slots)).max()
    money = [distribution.quantile(np.array([1 - 1e-12])).max() for distribution in market.distributions]
  if not largest <= _MAX_CLICKS:
    _fail("largest click probability of position and externality", float(largest), f"at most {_MAX_CLICKS:g}")
  if not max(money) <= _MAX_MONEY:
    _fail("largest of values", float(max(money)), f"at most {_MAX_MONEY:g}")
  if market.bids is not None and not market.bids.max(initial=0.0) <= _MAX_MONEY:
    _fail("largest of bids", float(market.bids.max()), f"at most {_MAX_MONEY:g}")


def read(path):
  """Returns the Market of a JSON file; ValueError names the file and what is wrong in it."""
  try:
    with open(path, encoding="utf-8-sig") as file:
      spec = json.load(file)
  except (OSError, ValueError, RecursionError) as error:
    raise ValueError(f"{path}: not a readable JSON market: {error}") from None
  try:
    return from_dict(spec)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None


def ordered_lists(num_ads, slots):
  """Returns every ordered list of length 0..slots, i32[lists, slots], -1 padded: the empty list first, shorter
  first."""
  lengths = range(min(slots, num_ads) + 1)
  rows = [tuple(order) + (-1,) * (slots - k) for k in lengths for order in itertools.permutations(range(num_ads), k)]
  return np.array(rows, np.int32).reshape(len(rows), slots)


def click_probabilities(market, lists, *, externalities=True):
  """Returns theta f64[lists, N]: each ad's click probability in each list i[lists, K], 0 where it is absent.

  Args:
    market: a Market.
    lists: i[lists, K], ads in slot order, -1 for an empty slot.
    externalities: False: q_i * position alone, a click model blind to neighbours.
  """
  shown, ads = lists >= 0, np.maximum(lists, 0)
  slot = np.arange(market.slots)
  distance = slot[:, None] - slot[None, :]  # slots by which j stands above i
  strength = np.where(distance > 0, market.above, market.below) * market.decay ** np.maximum(np.abs(distance) - 1.0, 0)
  pair = strength * (distance != 0) * market.similarity[ads[:, :, None], ads[:, None, :]]
  influence = np.where(shown[:, None, :], pair, 0.0).sum(-1) * externalities
  theta = np.where(shown, market.quality[ads] * market.position * np.exp(influence), 0.0)
  result = np.zeros((len(lists), market.num_ads))
  np.add.at(result, (np.arange(len(lists))[:, None], ads), theta)
  return result


def sample_values(market, rng, num_samples):
  """Returns independent values per click f64[num_samples, N], the same however the draws are cut into calls."""
  share = rng.uniform(size=(num_samples, market.num_ads))
  return values_lib.per_ad(lambda distribution, column: distribution.quantile(column), market.distributions, share)
