"""Cross-entropy of generated codes: next tokens (EGA Eq. 27) and the creative module's tokens (EGA Eq. 28)."""

import jax
import jax.numpy as jnp

from ega_jax.losses.masking import broadcast_mask, masked_sum, safe


def code_loss(logits, codes, *, where=None, legal=None):
  """Returns (sum, weight, metrics): cross-entropy of codes i32[..., L] under logits f32[..., L, V].

  Args: where: bool, a prefix of [..., L]; codes of -1 count as masked. legal: bool[..., L, V], the codes that the
  softmax runs over (all if None); a target that is not legal counts as masked.
  """
  mask = broadcast_mask(where, codes.shape) & (codes >= 0)
  target = jnp.maximum(codes, 0)[..., None]
  if legal is not None:
    mask = mask & jnp.take_along_axis(legal, target, axis=-1)[..., 0]
    # Rows without a legal code are masked; they are softmaxed over everything so that nothing is infinite.
    legal = legal | ~mask[..., None]
  logits = safe(logits, mask)
  if legal is not None:
    logits = jnp.where(legal, logits, -jnp.inf)
  normaliser = jax.nn.logsumexp(logits, axis=-1)
  loss = normaliser - jnp.take_along_axis(logits, target, axis=-1)[..., 0]
  total, weight = masked_sum(loss, mask)
  hit = jnp.argmax(logits, axis=-1) == codes
  return total, weight, {"cross_entropy": (total, weight), "accuracy": masked_sum(hit.astype(jnp.float32), mask)}


def next_token_loss(logits, codes, *, where=None, legal=None):
  """Returns (sum, weight, metrics): L_NTP, EGA Eq. 27, over POI codes i32[B, T, L] and logits [B, T, L, V]."""
  return code_loss(logits, codes, where=where, legal=legal)


def multi_token_loss(logits, codes, *, where=None, legal=None):
  """Returns (sum, weight, metrics): L_MTP, EGA Eq. 28, over creative codes i32[B, T, Lc] and logits [B, T, Lc, Vc]."""
  return code_loss(logits, codes, where=where, legal=legal)


def sequence_loss(log_probability, *, where=None, share=None):
  """Returns (sum, weight, metrics): -log P of items whose log-probabilities f32[B, T] over legal codes are given.

  The form of L_NTP that normalises over what can be generated (decoding's `list_log_z`); -inf must be masked.
  share f32[B]: how much of an example each row counts, 1 if None.
  """
  loss, each = -safe(log_probability, where), jnp.ones(log_probability.shape)
  if share is not None:
    loss, each = loss * share[:, None], each * share[:, None]
  total, weight = masked_sum(loss, where)[0], masked_sum(each, where)[0]
  return total, weight, {"negative_log_probability": (total, weight)}
