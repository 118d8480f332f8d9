"""Quality of predicted click probabilities and of ranked retrieval, in numpy.

Every function takes a keyword-only `where` (bool, the shape of the first argument, or one flag per row for retrieval):
what is masked is dropped, exactly as if it were absent. A metric with nothing to measure (no rows, one class) is nan.
"""

import numpy as np
from scipy import stats


def _kept(where, *arrays):
  """Returns the arrays flattened to f64[n] and reduced to the entries kept by `where`."""
  arrays = [np.asarray(array) for array in arrays]
  keep = np.ones(arrays[0].shape, bool) if where is None else np.broadcast_to(np.asarray(where, bool), arrays[0].shape)
  return [np.broadcast_to(array, keep.shape)[keep].astype(np.float64) for array in arrays]


def auc(score, label, *, where=None):
  """Returns the probability that a random positive outscores a random negative, ties half (Mann-Whitney).

  Args: score f[...], label {0, 1}[...] of one shape. Returns a float; nan if one class is missing.
  """
  score, label = _kept(where, score, label)
  positives = label.sum()
  negatives = label.size - positives
  if positives == 0 or negatives == 0:
    return float("nan")
  ranks = stats.rankdata(score)
  return float((ranks[label > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_standard_error(score, label, *, where=None):
  """Returns the standard error of `auc` (DeLong, DeLong and Clarke-Pearson 1988), a float; nan with fewer than two of a
  class.

  Args: score f[...], label {0, 1}[...] of one shape.
  """
  score, label = _kept(where, score, label)
  positive, negative = score[label > 0], score[label <= 0]
  if min(positive.size, negative.size) < 2:
    return float("nan")
  every = stats.rankdata(score)
  above = (every[label > 0] - stats.rankdata(positive)) / negative.size
  below = (every[label <= 0] - stats.rankdata(negative)) / positive.size
  return float(np.sqrt(above.var(ddof=1) / positive.size + below.var(ddof=1) / negative.size))


def log_loss(probability, label, *, where=None, epsilon=1e-7):
  """Returns the mean binary cross-entropy in nats; probabilities are clipped to [epsilon, 1 - epsilon].

  Args: probability f[...], label {0, 1}[...] of one shape.
  """
  probability, label = _kept(where, probability, label)
  if not probability.size:
    return float("nan")
  probability = np.clip(probability, epsilon, 1 - epsilon)
  return float(-np.mean(label * np.log(probability) + (1 - label) * np.log1p(-probability)))


def pcoc(probability, label, *, where=None):
  """Returns predicted over observed clicks: above 1 promises too much. nan without an observed click.

  Args: probability f[...], label {0, 1}[...] of one shape.
  """
  probability, label = _kept(where, probability, label)
  return float(probability.sum() / label.sum()) if label.sum() > 0 else float("nan")


def calibration_curve(probability, label, *, where=None, bins=10):
  """Returns dict(predicted, observed, count), f64[bins] each: means over equally filled bins of the prediction.

  With fewer entries than bins there are as many bins as entries. Args: probability f[...], label {0, 1}[...] of one
  shape.
  """
  probability, label = _kept(where, probability, label)
  order = np.array_split(np.argsort(probability, kind="stable"), bins)
  order = [index for index in order if index.size]
  return {
    "predicted": np.array([probability[index].mean() for index in order]),
    "observed": np.array([label[index].mean() for index in order]),
    "count": np.array([index.size for index in order], np.float64),
  }


def click_quality(probability, click, is_ad, *, where=None, bins=10):
  """Returns a flat dict of floats: auc, log_loss, pcoc overall, over ads and over organic items; pcoc in parts.

  The parts are positions ("pcoc/position_1") and deciles of the ads' predictions ("pcoc/ad_decile_1", lowest first).

  Args: probability f[n, K], click {0, 1}[n, K], is_ad bool[n, K] of shown lists; position is the last axis.
  """
  is_ad = np.asarray(is_ad, bool)
  where = np.ones(is_ad.shape, bool) if where is None else np.asarray(where, bool)
  report = {}
  for name, part in (("", where), ("/ads", where & is_ad), ("/organic", where & ~is_ad)):
    report["auc" + name] = auc(probability, click, where=part)
    report["log_loss" + name] = log_loss(probability, click, where=part)
    report["pcoc" + name] = pcoc(probability, click, where=part)
  report["auc/standard_error"] = auc_standard_error(probability, click, where=where)
  for position in range(is_ad.shape[-1]):
    keep = where & (np.arange(is_ad.shape[-1]) == position)
    report[f"pcoc/position_{position + 1}"] = pcoc(probability, click, where=keep)
  curve = calibration_curve(probability, click, where=where & is_ad, bins=bins)
  for decile, (predicted, observed) in enumerate(zip(curve["predicted"], curve["observed"], strict=True)):
    report[f"pcoc/ad_decile_{decile + 1}"] = float(predicted / observed) if observed > 0 else float("nan")
  return report


def calibrated(report, overall=(0.95, 1.05), per_position=(0.9, 1.1)):
  """Returns whether `click_quality`'s pcoc is in the bands that payments need to mean what they say (our decision).

  report: of `click_quality`; overall, per_position: (least, most) allowed.
  """
  positions = [value for name, value in report.items() if name.startswith("pcoc/position_")]
  in_band = all(per_position[0] <= value <= per_position[1] for value in positions)
  return bool(overall[0] <= report["pcoc"] <= overall[1] and in_band)


def _hits(ranked, target, k):
  """Returns (bool[n, k] which of the first k hold a target, f64[n] number of targets); -1 is padding on both sides."""
  ranked, target = np.asarray(ranked)[:, :k], np.asarray(target)
  target = target[:, None] if target.ndim == 1 else target
  hit = ((ranked[:, :, None] == target[:, None, :]) & (target >= 0)[:, None, :]).any(-1)
  return hit & (ranked >= 0), (target >= 0).sum(-1).astype(np.float64)


def recall_at(ranked, target, k, *, where=None):
  """Returns Recall@k: the mean over rows of (targets among the first k) / (targets); rows without a target are dropped.

  Args: ranked i[n, >= k] ids, best first, distinct; target i[n] or i[n, T] distinct ids; -1 pads both.
  """
  hit, count = _hits(ranked, target, k)
  keep = (count > 0) & (True if where is None else np.asarray(where, bool))
  return float((hit.sum(-1)[keep] / count[keep]).mean()) if keep.any() else float("nan")


def ndcg_at(ranked, target, k, *, where=None):
  """Returns NDCG@k with binary relevance: sum over hits of 1 / log2(1 + position), over its largest possible value.

  The mean over rows that have a target. Args: ranked, target: as in `recall_at`.
  """
  hit, count = _hits(ranked, target, k)
  keep = (count > 0) & (True if where is None else np.asarray(where, bool))
  if not keep.any():
    return float("nan")
  discount = 1 / np.log2(np.arange(2, k + 2))
  ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(count, k).astype(int)]
  return float(((hit * discount[: hit.shape[1]]).sum(-1)[keep] / ideal[keep]).mean())
