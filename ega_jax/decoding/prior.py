"""The item prior of a list step: what is known of every candidate, and what the list so far adds to it."""

import jax.numpy as jnp

from ega_jax.decoding.lists import take_rows
from ega_jax.types import Array, record


@record
class ListPrior:
  """An item prior that sees the list. Prior of candidate i after items j_1 .. j_t: base[i] + is_ad[i] * ad_slot[t] +
  sum over s of decay[t - s] * relation[j_s, i].
  """

  base: Array  # f32[B, C]
  relation: Array  # f32[B, C, C]  [shown, next]
  decay: Array  # f32[K]  by the slots between, 0 for neighbours
  ad_slot: Array  # f32[K]
  is_ad: Array  # bool[B, C]


def prior_after(prior, items):
  """Returns f32[B, X, C]: the prior of the next item after prefixes items i32[B, X, K] (-1: not taken yet).

  prior: a ListPrior; f32[B, C], the same after every prefix, gives [B, 1, C]; None gives None.
  """
  if not isinstance(prior, ListPrior):
    return prior if prior is None else prior[:, None]
  taken = items >= 0
  count = taken.sum(-1)  # [B, X]
  last = prior.decay.shape[0] - 1
  total = prior.base[:, None] + prior.is_ad[:, None] * prior.ad_slot[jnp.minimum(count, last)][..., None]
  for step in range(items.shape[-1]):  # one gather a step: rows of all steps at once would be K times the memory
    weight = jnp.where(taken[..., step], prior.decay[jnp.clip(count - step - 1, 0, last)], 0.0)
    total += weight[..., None] * take_rows(prior.relation, jnp.maximum(items[..., step], 0))
  return total
