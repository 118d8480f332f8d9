"""Sanity figures: worlds of several seeds lie in the bands, and the figures notice worlds that are trivial or noise."""

import dataclasses

import numpy as np
import pytest

from ega_jax.data import marketplace, sanity

REDUCED = dataclasses.replace(
  marketplace.SMALL, num_users=400, num_requests=6000, num_pois=600, num_ads=100, num_organic=30, recall=25
)


@pytest.fixture(scope="module")
def figures():
  return [sanity.figures(marketplace.generate(REDUCED, seed), seed, rows=100) for seed in (0, 1, 2)]


def test_worlds_of_three_seeds_are_in_every_band(figures):
  for each in figures:
    assert not sanity.violations(each)


def test_seeds_agree_within_noise(figures):
  for name, tolerance in {"click_rate": 0.01, "ad_share": 0.03, "auc_truth": 0.06, "payment_over_bid": 0.1}.items():
    values = [each[name] for each in figures]
    assert max(values) - min(values) < tolerance, name


def test_tiny_worlds_are_in_the_bands_on_average():
  many = [sanity.figures(marketplace.generate(marketplace.TINY, seed), seed) for seed in range(4)]
  assert not sanity.violations({name: float(np.mean([each[name] for each in many])) for name in many[0]})


def test_a_world_without_structure_is_reported():
  names = ("interest", "habit", "hour", "distance", "quality", "price", "residual", "creative", "creative_gain")
  names += ("substitute", "topic", "complement", "examination_slope")
  click = dataclasses.replace(marketplace.TINY.click, fatigue=1.0, **dict.fromkeys(names, 0.0))
  bad = sanity.figures(marketplace.generate(dataclasses.replace(marketplace.TINY, click=click), 0))
  text = " ".join(sanity.violations(bad))
  for name in ("best_order_gain", "best_creative_gain", "auc_truth", "auc_true_features"):
    assert name in text
  assert abs(bad["best_order_gain"]) < 1e-6 and abs(bad["best_creative_gain"]) < 1e-6


def test_no_model_beats_the_truth(figures):
  for each in figures:
    assert each["auc_true_features"] < each["auc_truth"] + 0.01  # same impressions: paired


def test_auc_equals_pair_counting():
  rng = np.random.default_rng(0)
  score, label = rng.integers(0, 6, 60) / 6, rng.random(60) < 0.4
  wins = [(a > b) + 0.5 * (a == b) for a in score[label] for b in score[~label]]
  np.testing.assert_allclose(sanity.auc(score, label), np.mean(wins), rtol=1e-12)


def test_logistic_regression_recovers_weights():
  rng = np.random.default_rng(1)
  x = rng.normal(size=[20_000, 2])
  label = rng.random(20_000) < 1 / (1 + np.exp(-(1.5 * x[:, 0] - 0.5 * x[:, 1] - 1)))
  np.testing.assert_allclose(sanity.logistic_regression(x, label), [1.5, -0.5, -1], atol=0.1)


def test_markov_hit_rate_counts_transitions_before_the_cut():
  user, poi = np.zeros(8, np.int32), np.array([0, 1, 0, 1, 0, 1, 0, 2], np.int32)
  behaviour = marketplace.Behaviour(user, poi, np.arange(8, dtype=np.int64), 1, 3)
  assert sanity.markov_hit_rate(behaviour, cut_time=5, top=1) == pytest.approx(2 / 3)  # 0->1, 1->0 hit; 0->2 misses


def test_figures_of_pages_with_few_ads_within_the_radius():
  market = marketplace.generate(dataclasses.replace(marketplace.TINY, radius_km=3.0), 0)
  ads = (market.requests["is_ad"] & (market.requests["candidates"] >= 0)).sum(1)
  assert ads.min() < marketplace.TINY.num_ads and (market.requests["candidates"] < 0).any()
  found = sanity.figures(market, 0, rows=100)
  assert np.isfinite(list(found.values())).all() and found["oracle_over_popularity"] > 1
