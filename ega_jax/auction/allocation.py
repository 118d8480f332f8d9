"""Allocations as functions of bids: affine maximisers over a set of lists. numpy, float64.

A list set is theta f[..., L, N], the click probability of ad i in list A (0 if absent), with an optional offset
f[..., L] (the organic part of the score, fixed before bids are seen). The shown list maximises offset + sum_i b_i
theta_i. Ties go to the lowest list index, so they never look at bids as long as the order of the lists does not.
"""

import numpy as np


def list_scores(theta, bids, offset=None):
  """Returns score(A) = offset(A) + sum_i b_i theta_i(A), f[..., G, L].

  A bid of -inf (a virtual bid below the support) forbids every list that shows the ad.

  Args:
    theta: f[..., L, N].
    bids: f[..., G, N].
    offset: f[..., L] or None.
  """
  bids, lists = np.asarray(bids, np.float64), np.swapaxes(theta, -1, -2)
  finite = np.isfinite(bids)
  scores = np.where(finite, bids, 0.0) @ lists
  if not finite.all():
    scores = np.where((~finite).astype(np.float64) @ (lists > 0) > 0, -np.inf, scores)
  return scores if offset is None else scores + np.asarray(offset)[..., None, :]


def shown(theta, index):
  """Returns the click probabilities x f[..., G, N] of the lists `index` i[..., G]."""
  theta = np.asarray(theta)
  if theta.ndim == 2:
    return theta[index]
  return np.take_along_axis(theta, index[..., None], axis=-2)


def affine_maximiser(theta, *, offset=None, transform=None):
  """Returns allocate(bids f[..., G, N]) -> (x f[..., G, N], {"list": i[..., G], "score": f[..., G]}).

  Args:
    theta: f[L, N], or f[B, L, N] for bids [B, G, N].
    offset: f[..., L], the part of the score without bids.
    transform: function of bids [..., N], for example ironed virtual values; None: bids themselves (welfare).
  """

  def allocate(bids):
    scores = list_scores(theta, bids if transform is None else transform(bids), offset)
    index = scores.argmax(-1)
    return shown(theta, index), {"list": index, "score": np.take_along_axis(scores, index[..., None], -1)[..., 0]}

  return allocate


def ranked_lists(rank_score, slots, eligible=None):
  """Returns i[..., slots]: ads by falling rank score f[..., N] (ties: lowest index), -1 after the last eligible one."""
  rank_score = np.asarray(rank_score, np.float64)
  eligible = np.ones(rank_score.shape, bool) if eligible is None else eligible
  order = np.argsort(-np.where(eligible, rank_score, -np.inf), axis=-1, kind="stable")[..., :slots]
  order = np.where(np.take_along_axis(eligible, order, -1), order, -1)
  missing = slots - order.shape[-1]
  return np.concatenate([order, np.full(order.shape[:-1] + (missing,), -1)], axis=-1) if missing else order


def range_of(theta, lists, size):
  """Returns rows i[1 + n], n <= size, of theta f[L, N]: 0, the empty list, then, ascending, the full-length lists with
  the `size` largest sum_i theta_i (vcg_range without a generator).

  Args: theta f[L, N], lists i[L, K], of `market.ordered_lists`; a list is full-length if no other has more ads.
  """
  length = (lists >= 0).sum(-1)
  total = np.where(length == length.max(), theta.sum(-1), -np.inf)
  best = np.argsort(-total, kind="stable")[: min(size, int(np.isfinite(total).sum()))]
  return np.concatenate([[0], np.sort(best)])
