"""Which slot each prefix lives in. A parent's first child stays where its parent is, so that most steps move few rows
of the key-value cache, and often none.
"""

import jax
import jax.numpy as jnp

from ega_jax.decoding.lists import take_rows


def _exclusive(counts):
  return jnp.cumsum(counts, -1) - counts


def assign_slots(parent, choice, alive, slots, width):
  """Returns (slot, source, choice, active, full) for the distinct (parent, choice) pairs among all beams.

  Args: parent i32[B, P, S] slots, choice i32[B, P, S] in [0, width), alive bool[B, P, S].
  Returns: slot i32[B, P, S] of every beam, -1 where it is not alive or found no slot; per slot i32[B, U] the `source`
  slot to copy from and the `choice` made, bool[B, U] whether it is `active`; full bool[B], more distinct pairs than
  slots.
  """
  batch = parent.shape[0]
  rows, flat = parent.reshape(batch, -1), jnp.where(alive, parent * width + choice, slots * width).reshape(batch, -1)
  mark = lambda i: jnp.zeros(slots * width, jnp.int32).at[i].set(1, mode="drop")
  present = jax.vmap(mark)(flat).reshape(batch, slots, width)
  children, nth = present.sum(-1), _exclusive(present)
  dead = children == 0
  num_dead = dead.sum(-1, keepdims=True)
  extras = jnp.maximum(children - 1, 0)
  first_extra = _exclusive(extras)
  # the e-th child that cannot stay goes to the e-th dead slot
  everyone = jnp.broadcast_to(jnp.arange(slots), (batch, slots))
  free = jnp.argsort(~dead, axis=-1, stable=True)
  rank = jnp.where(alive.reshape(batch, -1), take_rows(nth.reshape(batch, -1), jnp.minimum(flat, slots * width - 1)), 0)
  extra = take_rows(first_extra, rows) + rank - 1
  slot = jnp.where(rank == 0, rows, take_rows(free, jnp.minimum(extra, slots - 1)))
  placed = alive.reshape(batch, -1) & ((rank == 0) | (extra < num_dead))
  # the same seen from the slots
  mine = jnp.where(dead, _exclusive(dead.astype(jnp.int32)), -1)
  total = extras.sum(-1, keepdims=True)
  used = dead & (mine < total)
  ends = first_extra + extras
  owner = jax.vmap(lambda end, e: jnp.searchsorted(end, e, side="right"))(ends, jnp.maximum(mine, 0))
  source = jnp.where(used, owner, everyone)
  which = jnp.where(used, mine - take_rows(first_extra, jnp.minimum(owner, slots - 1)) + 1, 0)
  chosen = jnp.argmax((take_rows(nth, source) == which[..., None]) & (take_rows(present, source) > 0), -1)
  return (
    jnp.where(placed, slot, -1).reshape(parent.shape).astype(jnp.int32),
    source.astype(jnp.int32),
    chosen.astype(jnp.int32),
    ~dead | used,
    (total > num_dead)[:, 0],
  )


BLOCK = 128  # slots that a step of the model takes at once, of each request


def in_blocks(function, cache, rows, active):
  """Returns function(cache, rows) of the slots that hold a prefix: block by block up to the last of them, 0 after it.

  Prefixes take the lowest free slots, and early in a list, or where few bids matter, most slots are free. All slots are
  taken at once where they are few or no multiple of BLOCK.

  Args: function: its leaves are [B, U, ...], a function of each slot alone. cache: leaves [layers, B, U, ...]; rows:
    leaves [B, U, ...]; active bool[B, U].
  """
  slots, block = active.shape[1], BLOCK
  if slots <= block or slots % block:
    return function(cache, rows)
  last = jnp.max(jnp.where(active, jnp.arange(slots), 0))

  def part(start):
    some = lambda axis: lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, block, axis)
    return function(jax.tree.map(some(2), cache), jax.tree.map(some(1), rows))

  def add(i, found):
    write = lambda whole, new: jax.lax.dynamic_update_slice_in_dim(whole, new, i * block, 1)
    return jax.tree.map(write, found, part(i * block))

  shapes = jax.eval_shape(part, 0)
  empty = jax.tree.map(lambda leaf: jnp.zeros((leaf.shape[0], slots, *leaf.shape[2:]), leaf.dtype), shapes)
  return jax.lax.fori_loop(0, last // block + 1, add, empty)


def _gather_rows(cache, source):
  return jax.tree.map(lambda leaf: jax.vmap(take_rows, in_axes=(0, None))(leaf, source), cache)


def _copy_moved_rows(cache, source):
  """The same, in place, one slot at a time. Any order is right: no row that is written is read by another."""
  slots = source.shape[1]
  moved = (source != jnp.arange(slots)).reshape(-1)
  order = jnp.argsort(~moved, stable=True)

  def copy(i, cache):
    request, slot = jnp.divmod(order[i], slots)
    origin = source[request, slot]

    def one(leaf):
      rest = (0,) * (leaf.ndim - 3)
      row = jax.lax.dynamic_slice(leaf, (0, request, origin) + rest, leaf.shape[:1] + (1, 1) + leaf.shape[3:])
      return jax.lax.dynamic_update_slice(leaf, row, (0, request, slot) + rest)

    return jax.tree.map(one, cache)

  return jax.lax.fori_loop(0, moved.sum(), copy, cache)


def move_rows(cache, source):
  """Returns the cache with slot u of request b holding what slot source[b, u] held.

  Leaves [layers, B, U, ...], source i32[B, U] from `assign_slots`. On CPU only the slots that change are copied.
  """
  return jax.lax.platform_dependent(cache, source, cpu=_copy_moved_rows, default=_gather_rows)
