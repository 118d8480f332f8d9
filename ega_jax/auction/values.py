"""Distributions of private values: sampling, cdf, density, quantile, and virtual values raw and ironed.

phi(v) = v - (1 - F(v)) / f(v) (Myerson 1981). Below the support it is -inf: such a report gets nothing, so that the
lowest type's utility is 0. Only the lognormal can be irregular; its ironing is exact (no histogram). numpy, float64.
"""

import dataclasses
import functools
import math

import numpy as np


def _tail(sigma):
  """Returns the t beyond which a lognormal is not followed: no sample gets there, and an ironed interval ends
  before."""
  return 12.0 + 2.0 * sigma


@dataclasses.dataclass(frozen=True)
class Uniform:
  """Values uniform on [low, high]; phi = 2 v - high."""

  low: float
  high: float

  def __post_init__(self):
    if not 0 <= self.low < self.high < math.inf:
      raise ValueError(f"values: uniform needs 0 <= low < high < inf, got low={self.low}, high={self.high}")

  def sample(self, rng, size):
    """Returns independent values f64[size] drawn by a numpy Generator rng; size: a number or a shape."""
    return rng.uniform(self.low, self.high, size)

  def cdf(self, value):
    """Returns F(value) f64[...] of values f[...]."""
    return np.clip((value - self.low) / (self.high - self.low), 0.0, 1.0)

  def pdf(self, value):
    """Returns the density at values f[...], f64[...]; 0 outside the support."""
    return np.where((value >= self.low) & (value <= self.high), 1 / (self.high - self.low), 0.0)

  def quantile(self, share):
    """Returns F^-1 f64[...] of a share f[...] in [0, 1]."""
    return self.low + (self.high - self.low) * np.asarray(share)

  def virtual_value(self, value, ironed=True):
    """Returns phi(value) f64[...]; above the support the same line goes on, so that overbidding stays monotone."""
    return np.where(np.asarray(value) < self.low, -np.inf, 2 * np.asarray(value, np.float64) - self.high)

  def inverse_virtual_value(self, virtual):
    """Returns the least value in the support whose virtual value is at least `virtual`."""
    return np.maximum(self.low, (np.asarray(virtual, np.float64) + self.high) / 2)

  @property
  def slope(self):
    """d phi / d v where phi is affine (None elsewhere)."""
    return 2.0

  @property
  def lowest(self):
    """The support's lowest value; a report below it gets nothing."""
    return self.low


@dataclasses.dataclass(frozen=True)
class Exponential:
  """Values exponential with a mean; phi = v - mean."""

  mean: float

  def __post_init__(self):
    if not 0 < self.mean < math.inf:
      raise ValueError(f"values: exponential needs 0 < mean < inf, got mean={self.mean}")

  def sample(self, rng, size):
    """Returns independent values f64[size] drawn by a numpy Generator rng; size: a number or a shape."""
    return rng.exponential(self.mean, size)

  def cdf(self, value):
    """Returns F(value) f64[...] of values f[...]; 0 below 0."""
    return -np.expm1(-np.maximum(value, 0.0) / self.mean)

  def pdf(self, value):
    """Returns the density at values f[...], f64[...]; 0 below 0."""
    return np.where(np.asarray(value) >= 0, np.exp(-np.maximum(value, 0.0) / self.mean) / self.mean, 0.0)

  def quantile(self, share):
    """Returns F^-1 f64[...] of a share f[...] in [0, 1); infinite at 1."""
    return -self.mean * np.log1p(-np.asarray(share, np.float64))

  def virtual_value(self, value, ironed=True):
    """Returns phi(value) f64[...]."""
    return np.asarray(value, np.float64) - self.mean

  def inverse_virtual_value(self, virtual):
    """Returns the least value >= 0 whose virtual value is at least `virtual`."""
    return np.maximum(0.0, np.asarray(virtual, np.float64) + self.mean)

  @property
  def slope(self):
    """d phi / d v where phi is affine (None elsewhere)."""
    return 1.0

  @property
  def lowest(self):
    """The support's lowest value."""
    return 0.0


@dataclasses.dataclass(frozen=True)
class Lognormal:
  """Values exp(mu + sigma * normal); phi = v (1 - sigma * Mills(t)), t = (log v - mu) / sigma. Irregular if sigma >
  1.5.

  phi scales with exp(mu), so the ironed interval is a fact of sigma alone: `ironed_interval`.
  """

  mu: float
  sigma: float

  def __post_init__(self):
    if not (math.isfinite(self.mu) and 0 < self.sigma <= 5):
      raise ValueError(f"values: lognormal needs finite mu and 0 < sigma <= 5, got mu={self.mu}, sigma={self.sigma}")

  def sample(self, rng, size):
    """Returns independent values f64[size] drawn by a numpy Generator rng; size: a number or a shape."""
    return np.exp(self.mu + self.sigma * rng.standard_normal(size))

  def _standard(self, value):
    with np.errstate(divide="ignore"):
      return (np.log(np.maximum(value, 0.0)) - self.mu) / self.sigma

  def cdf(self, value):
    """Returns F(value) f64[...] of values f[...]; 0 at 0 and below."""
    from scipy import special

    return special.ndtr(self._standard(value))

  def pdf(self, value):
    """Returns the density at values f[...], f64[...]; 0 at 0 and below."""
    value = np.asarray(value, np.float64)
    density = np.exp(-0.5 * self._standard(value) ** 2) / math.sqrt(2 * math.pi) / self.sigma
    return np.divide(density, value, out=np.zeros_like(density), where=value > 0)

  def quantile(self, share):
    """Returns F^-1 f64[...] of a share f[...] in [0, 1]; infinite at 1."""
    from scipy import special

    return np.exp(self.mu + self.sigma * special.ndtri(share))

  def virtual_value(self, value, ironed=True):
    """Returns phi(value) f64[...], raw or ironed; -inf at 0 (the limit)."""
    standard = self._standard(np.asarray(value, np.float64))
    tail = _tail(self.sigma)
    virtual = _standard_virtual(np.clip(standard, -tail, tail), self.sigma)
    # Past the tail phi grows as v does: carried on by the ratio, so that huge misreports stay ordered.
    virtual = np.where(standard > tail, virtual * np.exp(self.sigma * (np.minimum(standard, 60) - tail)), virtual)
    interval = ironed_interval(self.sigma) if ironed else None
    if interval is not None:
      low, high, level = interval
      virtual = np.where((standard > low) & (standard < high), level, virtual)
    return np.where(standard < -tail, -np.inf, virtual * math.exp(self.mu))

  def inverse_virtual_value(self, virtual):
    """Returns the least value whose ironed virtual value is at least `virtual` (safeguarded Newton, to float64)."""
    target = np.asarray(virtual, np.float64) * math.exp(-self.mu)
    return np.exp(self.mu + self.sigma * _invert_standard_virtual(target.ravel(), self.sigma).reshape(target.shape))

  @property
  def slope(self):
    """d phi / d v where phi is affine (None elsewhere)."""
    return None

  @property
  def lowest(self):
    """The support's lowest value."""
    return 0.0


def _standard_virtual(standard, sigma):
  """Returns phi(exp(sigma t)) for mu = 0, with the Mills ratio (1 - Phi) / density from erfcx: sound in both tails."""
  from scipy import special

  mills = math.sqrt(math.pi / 2) * special.erfcx(standard / math.sqrt(2))
  return np.exp(sigma * standard) * (1 - sigma * mills)


@functools.lru_cache(maxsize=64)
def _virtual_grid(sigma):
  tail = _tail(sigma)
  grid = np.linspace(-tail, tail, 4001)
  return grid, np.maximum.accumulate(Lognormal(0.0, sigma).virtual_value(np.exp(sigma * grid)))


def _invert_standard_virtual(target, sigma):
  """Returns the least t f[n] at which the ironed phi(exp(sigma t)) reaches the targets f[n]."""
  from scipy import special

  grid, virtual = _virtual_grid(sigma)
  cell = np.clip(np.searchsorted(virtual, target), 1, len(grid) - 1)
  low, high = grid[cell - 1], grid[cell]
  if (interval := ironed_interval(sigma)) is not None:
    below = target <= interval[2]
    low = np.where(below, np.minimum(low, interval[0]), np.maximum(low, interval[1]))
    high = np.where(below, np.minimum(high, interval[0]), np.maximum(high, interval[1]))
  t = (low + high) / 2
  for _ in range(8):
    mills = math.sqrt(math.pi / 2) * special.erfcx(t / math.sqrt(2))
    value, growth = 1 - sigma * mills, np.exp(sigma * t)
    enough = growth * value >= target
    low, high = np.where(enough, low, t), np.where(enough, t, high)
    # d phi / d t = sigma e^(sigma t) (2 - (sigma + t) Mills), from Mills' = t Mills - 1.
    slope = sigma * growth * (2 - (sigma + t) * mills)
    newton = t - np.divide(growth * value - target, slope, out=np.full_like(t, np.inf), where=slope > 0)
    t = np.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
  return t


@functools.lru_cache(maxsize=1024)
def ironed_interval(sigma):
  """Returns (t_low, t_high, phi level) of the lognormal's one ironed interval at mu = 0, or None where it is regular.

  In quantile space the ironed phi is the slope of the concave hull of the revenue curve R = v (1 - F(v)) over 1 - F.
  The hull's bridge touches where phi(t_low) = phi(t_high) = (R(t_low) - R(t_high)) / (S(t_low) - S(t_high)), S = 1 -
  F.
  """
  from scipy import optimize, special

  tail = _tail(sigma)
  grid = np.linspace(-tail, tail, 24001)
  virtual = _standard_virtual(grid, sigma)
  rising = np.diff(virtual) >= 0
  if rising.all():
    return None
  peak, trough = np.argmax(~rising), len(rising) - np.argmax(~rising[::-1])

  def at_level(level):
    # The two ends where phi equals the level: on the branch before the local maximum, and after the local minimum.
    function = lambda t: float(_standard_virtual(t, sigma)) - level
    ends = (-tail, grid[peak]), (grid[trough], tail)
    return tuple(optimize.brentq(function, *bracket, xtol=1e-14) for bracket in ends)

  def gap(level):
    low, high = at_level(level)
    revenue = math.exp(sigma * low) * special.ndtr(-low) - math.exp(sigma * high) * special.ndtr(-high)
    return revenue - level * (special.ndtr(high) - special.ndtr(low))

  width = virtual[peak] - virtual[trough]
  level = optimize.brentq(gap, virtual[trough] + 1e-9 * width, virtual[peak] - 1e-9 * width, xtol=1e-14)
  return (*at_level(level), level)


_DISTRIBUTIONS = {"uniform": Uniform, "exponential": Exponential, "lognormal": Lognormal}


def is_number(value):
  """Returns whether a value of JSON is a number that a float64 holds."""
  try:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
  except OverflowError:  # an integer of some hundred digits
    return False


def from_spec(spec):
  """Returns a distribution from {"distribution": "uniform" | "exponential" | "lognormal", parameters}.

  Raises:
    ValueError: unknown distribution, missing or unknown parameter, a parameter that is no finite number or out of
      range.
  """
  if not isinstance(spec, dict) or str(spec.get("distribution")) not in _DISTRIBUTIONS:
    raise ValueError(f'values: "distribution" must be one of {sorted(_DISTRIBUTIONS)}, got {spec!r}')
  cls = _DISTRIBUTIONS[spec["distribution"]]
  names = {field.name for field in dataclasses.fields(cls)}
  given = {key: value for key, value in spec.items() if key != "distribution"}
  if set(given) != names:
    raise ValueError(f"values: {spec['distribution']} takes exactly {sorted(names)}, got {sorted(given)}")
  for name, value in given.items():
    if not is_number(value):
      raise ValueError(f"values: {name} must be a finite number, got {value!r}")
  return cls(**{name: float(value) for name, value in given.items()})


def per_ad(function, distributions, values):
  """Returns function(distribution_i, values[..., i]) f64[..., N], one call per distinct distribution."""
  values = np.asarray(values, np.float64)
  result = np.empty(values.shape)
  for distribution in set(distributions):
    columns = [i for i, other in enumerate(distributions) if other == distribution]
    result[..., columns] = function(distribution, values[..., columns])
  return result


def virtual_values(distributions, values, ironed=True):
  """Returns phi_i(values[..., i]) f64[..., N], ironed or raw."""
  return per_ad(lambda distribution, value: distribution.virtual_value(value, ironed), distributions, values)


def misreport_grid(distribution, top_bid, num_points=201):
  """Returns equally spaced misreports f64[..., num_points] on [0, high], or on [0, max(F^-1(.999), 2 max b)] where F is
  unbounded.

  Args:
    distribution: the misreporting ad's value distribution.
    top_bid: f[...], the highest bid of each profile.
    num_points: with both ends.
  """
  if isinstance(distribution, Uniform):
    top = np.full(np.shape(top_bid), distribution.high)
  else:
    top = np.maximum(distribution.quantile(0.999), 2 * np.asarray(top_bid, np.float64))
  return top[..., None] * np.linspace(0.0, 1.0, num_points)
