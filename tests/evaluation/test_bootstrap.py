"""Bootstrap intervals: coverage of known differences, clustering, pairing, and the definition of better."""

import numpy as np
import pytest

from ega_jax.evaluation import bootstrap


def clustered(seed, users=150, per_user=6, user_sd=1.0, mean=0.3):
  """Returns (difference f[n], users i[n]): user effects dominate, so rows of a user are nearly one observation."""
  rng = np.random.default_rng(seed)
  effect = mean + user_sd * rng.normal(size=users)
  user = np.repeat(np.arange(users), per_user)
  return effect[user] + 0.1 * rng.normal(size=user.size), user


def interval(difference, user, base, **options):
  one = np.ones(difference.size)
  return bootstrap.paired_difference((1.0, base + difference, one), (1.0, base, one), user, **options)


def test_intervals_cover_a_known_difference_and_ignoring_users_does_not():
  by_user, by_row = [], []
  for seed in range(100):
    difference, user = clustered(seed, users=50)
    base = 10 * np.random.default_rng(seed + 999).normal(size=difference.size)  # pairing removes it
    found = interval(difference, user, base, num_resamples=200)
    by_user.append(found.low <= 0.3 <= found.high)
    found = interval(difference, np.arange(user.size), base, num_resamples=200)
    by_row.append(found.low <= 0.3 <= found.high)
  assert 0.87 <= np.mean(by_user) <= 0.995
  assert np.mean(by_row) < 0.75


def test_interval_width_is_that_of_the_mean():
  difference, user = clustered(0, users=1000, per_user=2)
  found = interval(difference, user, 0.0 * difference)
  assert found.value == pytest.approx(difference.mean())
  assert found.high - found.low == pytest.approx(2 * 1.96 / np.sqrt(1000), rel=0.15)


def test_ratio_interval_scales_and_repeats():
  rng = np.random.default_rng(0)
  numerator, denominator, user = rng.random(500), rng.random(500) + 1, rng.integers(0, 90, 500)
  first = bootstrap.ratio_interval(numerator, denominator, user, scale=1000)
  assert first.value == pytest.approx(1000 * numerator.sum() / denominator.sum())
  assert first.low < first.value < first.high
  assert first == bootstrap.ratio_interval(numerator, denominator, user, scale=1000)


def test_chunks_of_memory_hold_the_same_number_of_resamples():
  sums = bootstrap.cluster_sums([3, 3, 9, 4], [1.0, 2, 3, 4])
  np.testing.assert_array_equal(sums, [[3, 4, 3]])
  draws = bootstrap.resampled_sums(sums, 50, 0, chunk_bytes=8 * 3 * 7)
  assert draws.shape == (50, 1) and draws.min() >= 9 and draws.max() <= 12


def pairs(effects, noise=0.2):
  built = []
  for seed, effect in enumerate(effects):
    rng = np.random.default_rng(seed)
    base, one = rng.normal(size=600), np.ones(600)
    built.append(((1.0, base + effect + noise * rng.normal(size=600), one), (1.0, base, one), np.arange(600) // 3))
  return built


@pytest.mark.parametrize(
  "effects, better, worse",
  [((0.2, 0.3, 0.25), True, False), ((-0.2, -0.1, -0.2), False, True), ((0.4, 0.4, -0.4), False, False),
   ((0.4, 0.4, 0.0), False, False)],
)
def test_better_needs_the_same_sign_in_every_seed(effects, better, worse):
  found = bootstrap.compare_over_seeds(pairs(effects), num_resamples=300)
  assert (found.better, found.worse) == (better, worse)
  assert found.mean == pytest.approx(np.mean(effects), abs=0.03)
  assert found.low < found.mean < found.high


def test_shared_users_do_not_shrink_the_interval_with_the_number_of_seeds():
  one = pairs((0.2,))
  single = bootstrap.compare_over_seeds(one, num_resamples=500)
  repeated = bootstrap.compare_over_seeds(one * 4, num_resamples=500)
  assert repeated.high - repeated.low == pytest.approx(single.high - single.low)


def test_unpaired_requests_are_refused():
  one = np.ones(4)
  with pytest.raises(ValueError, match="same requests"):
    bootstrap.paired_difference((1.0, one, one), (1.0, one[:3], one[:3]), np.arange(4))
  with pytest.raises(ValueError, match="empty"):
    bootstrap.compare_over_seeds([])
