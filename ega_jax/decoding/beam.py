"""Beam search over the codes of lists, for many bid profiles of one request at once (EGA Eq. 22-23).

The model never sees a bid: bids enter through log w only. So the profiles of a request share prefixes: the model runs
once per distinct prefix (a slot, at most U), each profile keeps its own S beams, and a beam is (slot, log z). Static
shapes, a scan over list positions and in it one over code levels.
"""

import jax
import jax.numpy as jnp

from ega_jax.decoding import constraints
from ega_jax.decoding.lists import Decoder, ListConfig, proposal_bids, take_rows
from ega_jax.decoding.prior import prior_after
from ega_jax.decoding.scores import AnyProfiles, OneProfile, OwnBids
from ega_jax.decoding.slots import assign_slots, in_blocks, move_rows
from ega_jax.types import Array, CandidateTable, Lists, record

__all__ = ["Decoder", "ListConfig", "generate_lists", "own_bid_sweep"]


@record
class Prefixes:
  """The slots of a request: distinct prefixes of lists."""

  items: Array  # i32[B, U, K]  positions in the candidates chosen so far, -1 after them
  under: Array  # bool[B, U, C]  items that match the codes of the item being spelled
  prior: Array  # f32[B, U, C]  of that item, or None
  token: Array  # i32[B, U]  last code, -1 at the beginning
  active: Array  # bool[B, U]  whether the slot holds a prefix


@record
class Beams:
  """Each profile's S best prefixes, best first."""

  slot: Array  # i32[B, P, S]
  log_z: Array  # f32[B, P, S]  -inf where there is none


_WIDTHS = (4, 24)  # legal tokens per prefix below which a step looks at these many instead of the whole vocabulary

_GROUP = 8


def top_k(values, k):
  """Returns (the k largest of values f[..., n] in descending order, i32[..., k] where they are): lax.top_k, faster on
  CPU.

  The k largest lie in the k groups of neighbours with the largest maxima: k groups already hold k values that large.
  """
  size = values.shape[-1]
  if size % _GROUP or size < 4 * _GROUP * k:
    return jax.lax.top_k(values, k)
  groups = values.reshape(values.shape[:-1] + (size // _GROUP, _GROUP))
  which = jnp.sort(jax.lax.top_k(groups.max(-1), k)[1], -1)
  place = (which[..., None] * _GROUP + jnp.arange(_GROUP)).reshape(values.shape[:-1] + (k * _GROUP,))
  best, found = jax.lax.top_k(jnp.take_along_axis(values, place, -1, mode="promise_in_bounds"), k)
  return best, jnp.take_along_axis(place, found, -1)


def _best(scores, terms, level, beams, width):
  """Returns (log_z, parent slot, token), each [B, P, S], the best S continuations when no prefix has more than `width`
  legal tokens.
  """
  num, vocabulary = beams.slot.shape[-1], terms.score.shape[-1]
  tokens = None if width == vocabulary else jax.lax.top_k(terms.score, width)[1]
  log_z = beams.log_z[..., None] + scores.log_z(terms, level, beams.slot, tokens)
  best, flat = top_k(log_z.reshape(log_z.shape[:2] + (num * width,)), num)
  parent = jnp.take_along_axis(beams.slot, flat // width, -1)
  if tokens is None:
    return best, parent, flat % width
  return best, parent, take_rows(tokens.reshape(tokens.shape[0], -1), parent * width + flat % width)


def _extend(scores, beams, terms, level):
  """Returns (log_z f32[B, P, S], parent slot i32[B, P, S], token i32[B, P, S]): the S best continuations of each
  profile.
  """
  vocabulary = terms.score.shape[-1]
  widths = [width for width in _WIDTHS if width < vocabulary] if scores.few_tokens else []
  if not widths:
    return _best(scores, terms, level, beams, vocabulary)
  most = jnp.max(jnp.sum(terms.score > -jnp.inf, -1))
  which = jnp.sum(most > jnp.array(widths))
  best = lambda width: lambda terms, beams: _best(scores, terms, level, beams, width)
  return jax.lax.switch(which, [best(width) for width in widths + [vocabulary]], terms, beams)


def _choose_items(scores, prefixes, level, parent, token):
  """Returns i32[B, P, S]: the item that each beam's finished code path stands for (collision="bucket")."""
  under = take_rows(prefixes.under, parent) & (scores.table.codes[:, None, None, :, level] == token[..., None])
  prior = 0.0 if prefixes.prior is None else take_rows(prefixes.prior, parent)
  return constraints.resolve(under, scores.power(), prior)


def _level(decoder, scores, resolve, position, level, carry):
  """Returns the carry (cache, prefixes, beams, overflow) after one more code of every beam; `resolve`: the code ends
  shared paths.
  """
  cache, prefixes, beams, overflow = carry
  table, slots = scores.table, prefixes.token.shape[-1]

  def by_slot(cache, some):
    rows, _, logits = decoder.step(cache, some.token, position)
    return rows, scores.terms(level, some.under, some.prior, logits)

  rows, terms = in_blocks(by_slot, cache, prefixes, prefixes.active)
  cache = decoder.write(cache, rows, position)
  terms = terms._replace(score=jnp.where(prefixes.active[..., None], terms.score, -jnp.inf))
  log_z, parent, token = _extend(scores, beams, terms, level)
  choice, width = token, terms.score.shape[-1]
  if resolve:
    choice, width = _choose_items(scores, prefixes, level, parent, token), table.valid.shape[-1]
  slot, source, choice, active, full = assign_slots(parent, choice, log_z > -jnp.inf, slots, width)
  if resolve:
    under, token = jnp.arange(width) == choice[..., None], take_rows(table.codes[..., level], choice)
  else:
    under, token = constraints.narrow(take_rows(prefixes.under, source), table, level, choice), choice
  prior = None if prefixes.prior is None else take_rows(prefixes.prior, source)
  prefixes = Prefixes(take_rows(prefixes.items, source), under & active[..., None], prior, token, active)
  beams = Beams(jnp.maximum(slot, 0), jnp.where(slot < 0, -jnp.inf, log_z))
  return move_rows(cache, source), prefixes, beams, overflow | full


def _start(table, num_profiles, config):
  """Returns (prefixes, beams): one empty prefix, in slot 0, which every profile's first beam holds."""
  batch, candidates = table.valid.shape
  slots, shape = config.num_slots, (batch, num_profiles, config.num_lists)
  active = jnp.broadcast_to(jnp.arange(slots) == 0, (batch, slots))
  prefixes = Prefixes(
    items=jnp.full((batch, slots, config.list_length), -1, jnp.int32),
    under=jnp.zeros((batch, slots, candidates), bool),
    prior=None,
    token=jnp.full((batch, slots), -1, jnp.int32),
    active=active,
  )
  log_z = jnp.where(jnp.arange(config.num_lists) == 0, 0.0, -jnp.inf)
  return prefixes, Beams(jnp.zeros(shape, jnp.int32), jnp.broadcast_to(log_z, shape))


def search(decoder, scores, config):
  """Returns Lists: beam search with the profiles of `scores` (see decoding/scores.py)."""
  table, levels = scores.table, scores.table.codes.shape[-1]
  prefixes, beams = _start(table, scores.num_profiles, config)
  resolve = config.collision == "bucket"

  def item(carry, step):
    cache, prefixes, beams, overflow = carry
    under = constraints.available_items(table, prefixes.items) & prefixes.active[..., None]
    prior = prior_after(scores.prior, prefixes.items)
    prior = None if prior is None else jnp.broadcast_to(prior, under.shape)
    carry = (cache, Prefixes(prefixes.items, under, prior, prefixes.token, prefixes.active), beams, overflow)
    code = lambda carry, level: (_level(decoder, scores, False, step * levels + level, level, carry), None)
    carry, _ = jax.lax.scan(code, carry, jnp.arange(levels - resolve))
    if resolve:
      carry = _level(decoder, scores, True, step * levels + levels - 1, levels - 1, carry)
    cache, prefixes, beams, overflow = carry
    chosen = jnp.where(prefixes.active, jnp.argmax(prefixes.under, -1).astype(jnp.int32), -1)
    items = prefixes.items.at[..., step].set(chosen)
    prefixes = Prefixes(items, prefixes.under, None, prefixes.token, prefixes.active)
    return (cache, prefixes, beams, overflow), None

  carry = (decoder.init(config.num_slots), prefixes, beams, jnp.zeros(table.valid.shape[:1], bool))
  (_, prefixes, beams, overflow), _ = jax.lax.scan(item, carry, jnp.arange(config.list_length))
  items = jnp.where(prefixes.active[..., None], prefixes.items, -1)
  return Lists(items, beams.slot, beams.log_z, overflow)


def generate_lists(decoder: Decoder, table: CandidateTable, bids, prior, config: ListConfig) -> Lists:
  """Returns the S best lists of each bid profile (EGA Eq. 22-23): beam search over codes by the sum of log z.

  Args: bids f32[B, G, C] per click, or None (bid-free, one profile); prior: a ListPrior, f32[B, C] (item logits
  g_i) or None.
  Profiles decoded together give what each gives alone. A request that needs more than `config.num_slots` distinct
  prefixes is flagged in `overflow` and its lists are not to be used: see `allocate_in_chunks`.
  """
  table = jax.tree.map(jnp.asarray, table)
  bids = proposal_bids(bids, config, None if table.slot_charge is None else table.slot_charge[:, None])
  if bids is None or bids.shape[1] == 1:
    return search(decoder, OneProfile(table, None if bids is None else bids[:, 0], prior, config), config)
  return search(decoder, AnyProfiles(table, bids, prior, config), config)


def own_bid_sweep(decoder: Decoder, table: CandidateTable, bids, ads, nodes, prior, config: ListConfig) -> Lists:
  """Returns the lists of A * G profiles, ad by ad: ads i32[B, A] (-1: none) bidding nodes f32[B, A, G], the others bids
  f32[B, C], per click.

  The same as `generate_lists` with those profiles, at a fraction of the cost. decoder, table, prior, config: as there.
  """
  table = jax.tree.map(jnp.asarray, table)
  own = None if table.slot_charge is None else take_rows(table.slot_charge, jnp.maximum(ads, 0))[..., None]
  bids, nodes = proposal_bids(bids, config, table.slot_charge), proposal_bids(nodes, config, own)
  return search(decoder, OwnBids(table, bids, ads, nodes, prior, config), config)
