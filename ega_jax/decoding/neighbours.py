"""Neighbours of a list: swaps of its slots, and ads replaced by the next best."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def moves(list_length, num_lists, max_distance):
  """Returns i32[num_lists, 3] of (kind, slot, other slot or rank): what makes each neighbour.

  kind 0 keeps the list; 1 swaps two slots at most `max_distance` apart; 2 puts the unshown ad of a rank into a slot; 3
  puts the next organic item there. Replacements go through ranks first, from the last slot up.
  """
  found = [(0, 0, 0)]
  for distance in range(1, max_distance + 1):
    found += [(1, slot, slot + distance) for slot in range(list_length - distance)]
  found += [(3, slot, 0) for slot in reversed(range(list_length))]
  rank = 0
  while len(found) < num_lists:
    found += [(2, slot, rank) for slot in reversed(range(list_length))]
    rank += 1
  return np.array(found[:num_lists], np.int32)


@functools.partial(jax.jit, static_argnames=("num_ranks",))
def neighbours(items, ad_score, is_ad, valid, chosen_moves, num_ranks):
  """Returns lists i32[B, G, S, K], all legal: items i32[B, G, K] after each of S moves.

  Organic items are filled into the slots that are not ads, in their order, so that no move disturbs it. Where they do
  not suffice a move leaves the list as it is.

  Args: ad_score f32[B, G, C]: ranks the unshown ads; is_ad, valid bool[B, C]; chosen_moves i32[S, 3] from `moves`;
    num_ranks: unshown ads that are ranked, of which a move of a higher rank takes the last.
  """
  length = items.shape[-1]
  shown_ad = jnp.take_along_axis(jnp.broadcast_to(is_ad[:, None], ad_score.shape), jnp.maximum(items, 0), -1)
  slots = jnp.where(shown_ad & (items >= 0), items, -1)  # -1: an organic slot
  position = jnp.arange(ad_score.shape[-1])
  shown = jnp.any(items[..., None] == position, axis=-2)
  unshown = (is_ad & valid)[:, None] & ~shown
  num_ranks = min(num_ranks, ad_score.shape[-1])
  best, order = jax.lax.top_k(jnp.where(unshown, ad_score, -jnp.inf), num_ranks)
  next_ads = jnp.where(best > -jnp.inf, order, -2)  # -2: there is no such ad, the slot stays as it is
  organic = _organic_sequence(is_ad, valid, length)

  def move(kind, slot, other):
    place = jnp.arange(length)
    at = lambda index: jnp.take_along_axis(slots, jnp.broadcast_to(index, (*slots.shape[:-1], 1)), -1)
    swapped = jnp.where(place == slot, at(other), jnp.where(place == other, at(slot), slots))
    rank = jnp.broadcast_to(jnp.minimum(other, num_ranks - 1), (*slots.shape[:-1], 1))
    entering = jnp.take_along_axis(next_ads, rank, -1)
    replaced = jnp.where((place == slot) & (entering >= 0), entering, slots)
    emptied = jnp.where(place == slot, -1, slots)
    new = jnp.select([kind == 1, kind == 2, kind == 3], [swapped, replaced, emptied], slots)
    return _fill(new, organic)

  lists = jax.vmap(move, out_axes=2)(*chosen_moves.T)
  return jnp.where(jnp.any(lists < 0, -1, keepdims=True), items[:, :, None], lists)


def _organic_sequence(is_ad, valid, length):
  """Returns i32[B, K]: the first K organic positions, -1 where there are fewer."""
  organic = valid & ~is_ad
  order = jnp.argsort(~organic, axis=1, stable=True)[:, :length]
  return jnp.where(jnp.take_along_axis(organic, order, 1), order, -1)


def _fill(slots, organic):
  """Returns lists with organic items, in order, in the slots that are -1."""
  rank = jnp.cumsum(slots < 0, axis=-1) - 1
  filled = jnp.take_along_axis(jnp.broadcast_to(organic[:, None], slots.shape), jnp.maximum(rank, 0), -1)
  return jnp.where(slots >= 0, slots, filled)
