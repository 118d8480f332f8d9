"""Beam search over the codes of lists, for many bid profiles of one request at once (EGA Eq. 22-23).

The model never sees a bid: bids enter through log w only. So the profiles of a request share prefixes: the model runs once per distinct prefix (a slot, at most U), each
profile keeps its own S beams, and a beam is (slot, log z). Everything is jitted with static shapes: a scan over list positions, code levels unrolled.
"""

import jax
import jax.numpy as jnp

from ega_jax.decoding import constraints
from ega_jax.decoding.lists import Decoder, ListConfig, take_rows
from ega_jax.decoding.scores import AnyProfiles, OneProfile, OwnBids
from ega_jax.decoding.slots import assign_slots, move_rows
from ega_jax.types import Array, CandidateTable, Lists, record

__all__ = ["Decoder", "ListConfig", "generate_lists", "own_bid_sweep"]


@record
class Prefixes:
  """The slots of a request: distinct prefixes of lists."""

  items: Array  # i32[B, U, K]  positions in the candidates chosen so far, -1 after them
  under: Array  # bool[B, U, C]  items that match the codes of the item being spelled
  token: Array  # i32[B, U]  last code, -1 at the beginning
  active: Array  # bool[B, U]  whether the slot holds a prefix


@record
class Beams:
  """Each profile's S best prefixes, best first."""

  slot: Array  # i32[B, P, S]
  log_z: Array  # f32[B, P, S]  -inf where there is none


def _extend(scores, beams, prefixes, level, logits, config):
  """Returns (log_z f32[B, P, S], parent slot i32[B, P, S], token i32[B, P, S]): the S best continuations of each profile."""
  log_z = beams.log_z[..., None] + scores.log_z(level, prefixes.under, logits, beams.slot)
  batch, profiles, num, vocabulary = log_z.shape
  best, flat = jax.lax.top_k(log_z.reshape(batch, profiles, num * vocabulary), num)
  parent = jnp.take_along_axis(beams.slot, flat // vocabulary, -1)
  return best, parent, flat % vocabulary


def _choose_items(scores, prefixes, level, parent, token, config):
  """Returns i32[B, P, S]: the item that each beam's finished code path stands for (collision="bucket")."""
  under = take_rows(prefixes.under, parent) & (scores.table.codes[:, None, None, :, level] == token[..., None])
  prior = 0.0 if scores.prior is None else scores.prior[:, None, None]
  return constraints.resolve(under, scores.power(), prior)


def _level(decoder, scores, config, level, last, position, cache, prefixes, beams, overflow):
  """Returns (cache, prefixes, beams, overflow) after one more code of every beam."""
  cache, _, logits = decoder.step(cache, prefixes.token, position)
  log_z, parent, token = _extend(scores, beams, prefixes, level, logits, config)
  alive = log_z > -jnp.inf
  table, slots = scores.table, prefixes.token.shape[-1]
  chosen_by_bid = last and config.collision == "bucket"
  choice, width = (_choose_items(scores, prefixes, level, parent, token, config), table.valid.shape[-1]) if chosen_by_bid else (token, logits.shape[-1])
  slot, source, choice, active, full = assign_slots(parent, choice, alive, slots, width)
  if chosen_by_bid:
    under = jnp.arange(width) == choice[..., None]
    token = take_rows(table.codes[..., level], choice)
  else:
    token, under = choice, constraints.narrow(take_rows(prefixes.under, source), table, level, choice)
  under &= active[..., None]
  cache = move_rows(cache, source)
  prefixes = Prefixes(take_rows(prefixes.items, source), under, token, active)
  return cache, prefixes, Beams(slot, jnp.where(slot < 0, -jnp.inf, log_z)), overflow | full


def _start(table, num_profiles, config):
  """Returns (prefixes, beams): one empty prefix, in slot 0, which every profile's first beam holds."""
  batch, candidates = table.valid.shape
  slots, shape = config.num_slots, (batch, num_profiles, config.num_lists)
  active = jnp.broadcast_to(jnp.arange(slots) == 0, (batch, slots))
  prefixes = Prefixes(
    items=jnp.full((batch, slots, config.list_length), -1, jnp.int32),
    under=jnp.zeros((batch, slots, candidates), bool),
    token=jnp.full((batch, slots), -1, jnp.int32),
    active=active,
  )
  log_z = jnp.where(jnp.arange(config.num_lists) == 0, 0.0, -jnp.inf)
  return prefixes, Beams(jnp.zeros(shape, jnp.int32), jnp.broadcast_to(log_z, shape))


def search(decoder, scores, config):
  """Returns Lists: beam search with the profiles of `scores` (an object with table, prior, num_profiles, `log_z` and `power`, as `AnyProfiles`)."""
  table, levels = scores.table, scores.table.codes.shape[-1]
  prefixes, beams = _start(table, scores.num_profiles, config)

  def item(carry, step):
    cache, prefixes, beams, overflow = carry
    under = constraints.available_items(table, prefixes.items) & prefixes.active[..., None]
    prefixes = Prefixes(prefixes.items, under, prefixes.token, prefixes.active)
    for level in range(levels):
      cache, prefixes, beams, overflow = _level(
        decoder, scores, config, level, level == levels - 1, step * levels + level, cache, prefixes, beams, overflow
      )
    chosen = jnp.where(prefixes.active, jnp.argmax(prefixes.under, -1).astype(jnp.int32), -1)
    prefixes = Prefixes(prefixes.items.at[..., step].set(chosen), prefixes.under, prefixes.token, prefixes.active)
    return (cache, prefixes, beams, overflow), None

  carry = (decoder.init(config.num_slots), prefixes, beams, jnp.zeros(table.valid.shape[:1], bool))
  (_, prefixes, beams, overflow), _ = jax.lax.scan(item, carry, jnp.arange(config.list_length))
  items = jnp.where(prefixes.active[..., None], prefixes.items, -1)
  return Lists(items, jnp.maximum(beams.slot, 0), beams.log_z, overflow)


def generate_lists(decoder: Decoder, table: CandidateTable, bids, prior, config: ListConfig) -> Lists:
  """Returns the S best lists of each bid profile (EGA Eq. 22-23): beam search over codes by the sum of log z.

  Args: bids f32[B, G, C] per click, or None (bid-free, one profile); prior f32[B, C] (item logits g_i) or None. Profiles decoded together give what each gives alone.
  A request that needs more than `config.num_slots` distinct prefixes is flagged in `overflow` and its lists are not to be used: see `allocate_in_chunks`.
  """
  if bids is None or bids.shape[1] == 1:
    return search(decoder, OneProfile(table, None if bids is None else bids[:, 0], prior, config), config)
  return search(decoder, AnyProfiles(table, bids, prior, config), config)


def own_bid_sweep(decoder: Decoder, table: CandidateTable, bids, ads, nodes, prior, config: ListConfig) -> Lists:
  """Returns the lists of A * G profiles, ad by ad: ads i32[B, A] (-1: none) bidding nodes f32[B, A, G], the others bids f32[B, C].

  The same as `generate_lists` with those profiles, at a fraction of the cost.
  """
  return search(decoder, OwnBids(table, bids, ads, nodes, prior, config), config)
