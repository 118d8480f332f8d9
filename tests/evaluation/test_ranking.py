"""Ranking metrics against formulas and pair-counting oracles."""

import numpy as np
import pytest

from ega_jax.evaluation import ranking


def slow_auc(score, label):
  pairs = [(a > b) + 0.5 * (a == b) for a in score[label == 1] for b in score[label == 0]]
  return np.mean(pairs)


def sample(seed, count=300):
  rng = np.random.default_rng(seed)
  probability = np.round(rng.beta(1, 4, count), 2)  # rounded: ties matter
  return probability, (rng.random(count) < probability).astype(np.int8)


@pytest.mark.parametrize("seed", range(3))
def test_auc_counts_pairs_with_ties_half(seed):
  probability, label = sample(seed)
  assert ranking.auc(probability, label) == pytest.approx(slow_auc(probability, label), abs=1e-12)


def test_auc_extremes():
  assert ranking.auc([0.1, 0.2, 0.3], [0, 0, 1]) == 1.0
  assert ranking.auc([0.3, 0.2, 0.1], [0, 0, 1]) == 0.0
  assert np.isnan(ranking.auc([0.3, 0.2], [1, 1]))


def test_auc_standard_error_is_the_spread_over_samples():
  found = [(ranking.auc(p, y), ranking.auc_standard_error(p, y)) for p, y in (sample(seed) for seed in range(200))]
  assert np.mean([error for _, error in found]) == pytest.approx(np.std([value for value, _ in found]), rel=0.15)


def test_log_loss_and_pcoc_by_hand():
  assert ranking.log_loss([0.25, 0.5], [1, 0]) == pytest.approx((np.log(4) + np.log(2)) / 2)
  assert ranking.pcoc([0.25, 0.5, 0.25], [1, 0, 1]) == pytest.approx(0.5)
  assert np.isfinite(ranking.log_loss([0.0, 1.0], [1, 0]))


@pytest.mark.parametrize("metric", [ranking.auc, ranking.log_loss, ranking.pcoc, ranking.auc_standard_error])
def test_masked_is_dropped(metric):
  probability, label = sample(5)
  where = np.arange(probability.size) % 3 > 0
  garbage = np.where(where, probability, np.nan)
  assert metric(garbage, label, where=where) == metric(probability[where], label[where])


def test_click_quality_parts():
  rng = np.random.default_rng(0)
  probability = rng.uniform(0.05, 0.5, (4000, 3))
  is_ad = rng.random((4000, 3)) < 0.4
  # Observed clicks: half of the prediction at position 3, as predicted elsewhere.
  click = rng.random((4000, 3)) < probability * np.array([1, 1, 0.5])
  report = ranking.click_quality(probability, click, is_ad)
  assert report["pcoc/position_1"] == pytest.approx(1, abs=0.08)
  assert report["pcoc/position_3"] == pytest.approx(2, abs=0.2)
  assert report["pcoc/ads"] == pytest.approx(ranking.pcoc(probability[is_ad], click[is_ad]))
  assert report["auc/organic"] == pytest.approx(ranking.auc(probability[~is_ad], click[~is_ad]))
  assert sum(name.startswith("pcoc/ad_decile_") for name in report) == 10
  assert not ranking.calibrated(report)
  assert ranking.calibrated({"pcoc": 1.01, "pcoc/position_1": 0.91, "pcoc/position_2": 1.09})


def test_calibration_curve_of_equal_bins():
  curve = ranking.calibration_curve([0.4, 0.1, 0.3, 0.2], [1, 0, 1, 0], bins=2)
  np.testing.assert_allclose(curve["predicted"], [0.15, 0.35])
  np.testing.assert_allclose(curve["observed"], [0, 1])
  np.testing.assert_allclose(curve["count"], [2, 2])


def test_recall_and_ndcg_by_hand():
  ranked = np.array([[7, 3, 5], [1, 2, 4], [9, 8, -1]])
  target = np.array([[3, 6], [4, -1], [-1, -1]])
  assert ranking.recall_at(ranked, target, 2) == pytest.approx((0.5 + 0) / 2)
  assert ranking.recall_at(ranked, target, 3) == pytest.approx((0.5 + 1) / 2)
  first = (1 / np.log2(3)) / (1 + 1 / np.log2(3))
  assert ranking.ndcg_at(ranked, target, 3) == pytest.approx((first + 0.5) / 2)
  assert ranking.recall_at(ranked, target, 3, where=[False, True, True]) == 1.0
  assert ranking.ndcg_at(ranked[:, ::-1], target[:, :1], 3, where=[False, True, False]) == 1.0
  assert np.isnan(ranking.recall_at(ranked, target, 3, where=[False, False, True]))
