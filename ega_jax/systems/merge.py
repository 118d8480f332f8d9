"""Lists by a pointwise score: slot by slot the best of the unused ads and the next organic item."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames=("list_length",))
def greedy_merge(score, is_ad, valid, list_length):
  """Returns items i32[B, G, K]: at every slot the available candidate with the highest score; -1 when none is left.

  Args: score f32[B, G, C]: b * pCTR of ads and organic_weight * pCTR of organic items, say; is_ad, valid bool[B, C].
    Organic items keep their order (that of their positions). Ties go to the earlier position.
  """
  position = jnp.arange(score.shape[-1])
  organic = (valid & ~is_ad)[:, None]
  ads = (valid & is_ad)[:, None]

  def slot(used, _):
    left = organic & ~used
    first = jnp.min(jnp.where(left, position, score.shape[-1]), axis=-1, keepdims=True)
    available = (ads & ~used) | (left & (position == first))
    best = jnp.argmax(jnp.where(available, score, -jnp.inf), axis=-1)
    exists = jnp.any(available, axis=-1)
    return used | ((position == best[..., None]) & exists[..., None]), jnp.where(exists, best, -1).astype(jnp.int32)

  used = jnp.zeros(score.shape, bool)
  _, items = jax.lax.scan(slot, used, None, length=list_length)
  return jnp.moveaxis(items, 0, -1)


def ad_share(items, is_ad):
  """Returns f32[]: share of ads among the entries of items i32[B, G, K]."""
  shown = items >= 0
  ads = jax.vmap(lambda row, index: row[jnp.maximum(index, 0)])(is_ad, items) & shown
  return jnp.sum(ads) / jnp.maximum(jnp.sum(shown), 1)
