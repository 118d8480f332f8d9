"""Policy gradient of the allocation: marginal contributions as rewards (EGA Eq. 31-32)."""

import jax
import jax.numpy as jnp

from ega_jax.losses.masking import broadcast_mask, masked_sum, safe


def marginal_contribution(score, score_without):
  """Returns r f32[..., K] = score(Y*) - score(Y*_-i), EGA Eq. 31.

  Args: score [...] of the shown list; score_without [..., K] of the list generated with item i masked. Both are the one
  objective, sum of b theta over ads plus organic_weight times theta over organic items (our decision: without the
  organic part every organic item is pushed out).
  """
  return score[..., None] - score_without


def leave_one_out(score):
  """Returns f[..., J]: what each of J lists of a request scores above the mean of the others.

  With lists drawn independently this is an unbiased advantage of every choice in them (Kool et al. 2019): the baseline
  knows nothing of the list. A marginal contribution is none: its baseline, the list without the item, depends on the
  item, and credits an ad with what it adds anywhere in the list, whether or not this is its place.

  Args: score f[..., J] of the lists. Raises: ValueError for fewer than two.
  """
  count = score.shape[-1]
  if count < 2:
    raise ValueError(f"{count} list a request; allowed: 2 or more, each of which is judged by the others")
  return (score - jnp.mean(score, -1, keepdims=True)) * (count / (count - 1))


def policy_gradient_loss(log_z, reward, *, where=None):
  """Returns (sum, weight, metrics): -sum_i r_i log z_i per request, EGA Eq. 32; weight counts requests.

  Args: log_z f32[B, K], differentiable; reward f32[B, K], the advantage of each choice, through which nothing flows (in
    units of a constant fitted on logs, never of a statistic of the batch, or a batch would not be the sum of its
    requests); where: bool, a prefix of [B, K].
  """
  mask = broadcast_mask(where, log_z.shape)
  advantage = safe(jax.lax.stop_gradient(reward), mask)
  per_item = jnp.where(mask, -advantage * safe(log_z, mask), 0.0)
  total, weight = masked_sum(jnp.sum(per_item, axis=-1), jnp.any(mask, axis=-1))
  metrics = {"reward": masked_sum(safe(reward, mask), mask), "log_z": masked_sum(safe(log_z, mask), mask)}
  return total, weight, metrics
