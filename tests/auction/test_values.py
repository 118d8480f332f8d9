"""Value distributions against scipy, numerical derivatives and an ironing by the hull on a fine grid."""

import numpy as np
import pytest
from scipy import stats

import oracles
from ega_jax.auction import values

CASES = [
  (values.Uniform(2.0, 3.0), stats.uniform(2, 1)),
  (values.Exponential(3.0), stats.expon(scale=3.0)),
  (values.Lognormal(0.3, 0.6), stats.lognorm(0.6, scale=np.exp(0.3))),
  (values.Lognormal(-0.5, 2.0), stats.lognorm(2.0, scale=np.exp(-0.5))),
]


@pytest.mark.parametrize("ours, theirs", CASES)
def test_distribution_and_raw_virtual_value(ours, theirs):
  share = np.linspace(0.01, 0.99, 37)
  value = theirs.ppf(share)
  np.testing.assert_allclose(ours.quantile(share), value, rtol=1e-10)
  np.testing.assert_allclose(ours.cdf(value), share, rtol=1e-10)
  np.testing.assert_allclose(ours.pdf(value), theirs.pdf(value), rtol=1e-10)
  phi = value - theirs.sf(value) / theirs.pdf(value)
  np.testing.assert_allclose(ours.virtual_value(value, ironed=False), phi, rtol=1e-9, atol=1e-9)
  sample = ours.sample(np.random.default_rng(0), 20_000)
  assert stats.kstest(sample, theirs.cdf).pvalue > 1e-3


def test_lognormal_is_regular_up_to_about_one_and_a_half():
  assert values.ironed_interval(0.6) is None and values.ironed_interval(1.5) is None
  assert values.ironed_interval(1.6) is not None


def test_ironing_at_sigma_two_equals_the_hull():
  ours, theirs = values.Lognormal(0.0, 2.0), stats.lognorm(2.0)
  value = theirs.ppf(np.linspace(0.002, 0.995, 60))
  want = oracles.ironed_by_hull(theirs.cdf, theirs.ppf, value)
  got = ours.virtual_value(value)
  np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)
  raw = ours.virtual_value(value, ironed=False)
  assert np.abs(raw - got).max() > 0.5
  assert (np.diff(got) >= 0).all() and (np.diff(raw) < 0).any()
  # Ironing preserves the mean of phi over the ironed interval (here by quadrature in quantiles).
  low, high, level = values.ironed_interval(2.0)
  share = np.linspace(stats.norm.cdf(low), stats.norm.cdf(high), 200_001)
  mean = ours.virtual_value(theirs.ppf((share[1:] + share[:-1]) / 2), ironed=False).mean()
  np.testing.assert_allclose(mean, level, rtol=1e-6)


@pytest.mark.parametrize("ours", [c[0] for c in CASES])
def test_inverse_virtual_value(ours):
  value = ours.quantile(np.linspace(0.001, 0.999, 301))
  phi = ours.virtual_value(value)
  back = ours.inverse_virtual_value(phi)
  assert (back <= value * (1 + 1e-12)).all()
  np.testing.assert_allclose(ours.virtual_value(back * (1 + 1e-13)), phi, rtol=1e-9, atol=1e-9)
  strictly = np.append(np.diff(phi) > 1e-9, False) & np.insert(np.diff(phi) > 1e-9, 0, False)
  np.testing.assert_allclose(back[strictly], value[strictly], rtol=1e-9)


def test_below_the_support_is_minus_infinity():
  assert values.Uniform(2.0, 3.0).virtual_value(1.999) == -np.inf
  assert values.Lognormal(0.0, 0.6).virtual_value(0.0) == -np.inf


def test_misreport_grid():
  uniform = values.misreport_grid(values.Uniform(2.0, 3.0), np.array([2.5, 9.0]))
  assert uniform.shape == (2, 201) and (uniform[:, 0] == 0).all() and (uniform[:, -1] == 3.0).all()
  exponential = values.misreport_grid(values.Exponential(1.0), np.array([1.0, 50.0]))
  np.testing.assert_allclose(exponential[:, -1], [np.log(1000), 100.0])
  np.testing.assert_allclose(np.diff(exponential[1]), 0.5)
