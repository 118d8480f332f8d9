"""Paired, user-clustered bootstrap intervals of ratios of sums, and the word "better".

Requests of one user are not independent, so users are resampled (Cameron, Gelbach and Miller 2008). Both systems of
a pair see the same resample.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interval:
  """A figure with its bootstrap interval."""

  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The paired difference of two systems over seeds."""

  mean: float  # mean over seeds of the paired difference
  low: float  # interval of that mean: users resampled within each seed, differences averaged over seeds
  high: float
  per_seed: tuple  # Interval of each seed
  better: bool  # same sign in all seeds, positive, and every seed's interval excludes 0
  worse: bool  # the same with a negative sign


def cluster_sums(clusters, *columns):
  """Returns f64[columns, clusters]: each column f[n] summed over the rows of a cluster; clusters i[n] are labels."""
  _, index = np.unique(np.asarray(clusters), return_inverse=True)
  return np.stack([np.bincount(index, weights=np.asarray(column, np.float64)) for column in columns])


def resampled_sums(sums, num_resamples, seed, chunk_bytes=1 << 26):
  """Returns f64[num_resamples, columns]: column sums over clusters drawn with replacement, memory <= chunk_bytes."""
  rng = np.random.default_rng(seed)
  clusters = sums.shape[1]
  chunk = max(1, chunk_bytes // (8 * clusters))
  blocks = []
  for start in range(0, num_resamples, chunk):
    size = min(chunk, num_resamples - start)
    counts = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=size)
    blocks.append(counts @ sums.T)
  return np.concatenate(blocks)


def _ratio(scale, numerator, denominator):
  with np.errstate(divide="ignore", invalid="ignore"):
    return scale * numerator / denominator


def _interval(value, draws, level):
  tail = 50 * (1 - level)
  finite = draws[np.isfinite(draws)]
  if not finite.size:
    return Interval(float(value), float("nan"), float("nan"))
  low, high = np.percentile(finite, [tail, 100 - tail])
  return Interval(float(value), float(low), float(high))


def ratio_interval(numerator, denominator, clusters, *, scale=1.0, num_resamples=1000, level=0.95, seed=0):
  """Returns the Interval of scale * sum(numerator) / sum(denominator), f[n] each; clusters (users) i[n].

  num_resamples: of the clusters, by `seed`; level: of the interval, 0.95 for 95%.
  """
  sums = cluster_sums(clusters, numerator, denominator)
  draws = resampled_sums(sums, num_resamples, seed)
  total = sums.sum(1)
  return _interval(_ratio(scale, total[0], total[1]), _ratio(scale, draws[:, 0], draws[:, 1]), level)


def _difference_draws(first, second, clusters, num_resamples, seed):
  """Returns (difference, f64[num_resamples] of its resamples) of two (scale, numerator, denominator)."""
  shapes = [first[1].shape, second[1].shape, np.shape(clusters)]
  if len(set(shapes)) > 1:
    raise ValueError(f"paired systems need the same requests; shapes of first, second, users are {shapes}")
  sums = cluster_sums(clusters, first[1], first[2], second[1], second[2])
  draws, total = resampled_sums(sums, num_resamples, seed), sums.sum(1)
  value = _ratio(first[0], total[0], total[1]) - _ratio(second[0], total[2], total[3])
  return value, _ratio(first[0], draws[:, 0], draws[:, 1]) - _ratio(second[0], draws[:, 2], draws[:, 3])


def paired_difference(first, second, clusters, *, num_resamples=1000, level=0.95, seed=0):
  """Returns the Interval of figure(first) - figure(second), paired by request and clustered by user.

  Args: first, second: (scale, numerator f[n], denominator f[n]) from `market.parts`; clusters i[n]; num_resamples,
    level, seed: as in `ratio_interval`.
  Raises: ValueError if the two were not evaluated on the same requests.
  """
  value, draws = _difference_draws(first, second, clusters, num_resamples, seed)
  return _interval(value, draws, level)


def compare_over_seeds(pairs, *, num_resamples=1000, level=0.95, seed=0):
  """Returns the Comparison of two systems over training seeds.

  Better (our decision) = the paired difference has the same sign in all seeds, and the user-clustered bootstrap
  interval of every seed excludes 0.

  Args: pairs: one (first, second, clusters) per seed, as in `paired_difference`. Raises: ValueError if there are none.
  """
  if not pairs:
    raise ValueError("pairs is empty; one (first, second, users) per seed is needed")
  # One seed for all: where the training seeds share their test users, the mean must see the same resample of them.
  results = [_difference_draws(*pair, num_resamples, seed) for pair in pairs]
  per_seed = tuple(_interval(value, draws, level) for value, draws in results)
  mean = _interval(np.mean([value for value, _ in results]), np.mean([draws for _, draws in results], axis=0), level)
  return Comparison(
    mean=mean.value,
    low=mean.low,
    high=mean.high,
    per_seed=per_seed,
    better=all(interval.low > 0 for interval in per_seed),
    worse=all(interval.high < 0 for interval in per_seed),
  )
