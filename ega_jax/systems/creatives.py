"""Which creative a candidate is shown with (EGA Eq. 16-17), and which it was shown with before.

A tenth of the candidates is in any list, and choosing among the creatives of all of them takes longer than generating
lists does: only what lists hold is decided, and once per request while it is kept. Functions take models and params as
`generation` does, and prepared, its Prepared.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.decoding.lists import take_rows
from ega_jax.models.ega_config import LIST
from ega_jax.systems import generation
from ega_jax.systems.distinct import digests

BLOCK = 16  # candidates of a request that are decided together, at least: few sizes are compiled
LIMIT = 2**17  # requests


def creative_scores(models, params, states, own, belief=None):
  """Returns f32[..., R]: log P(codes of creative r) after decoder states [..., d] (EGA Eq. 16-17); -inf for -1.

  own: i32[..., R], creative ids, -1 padded. belief: f32[..., R], added with a learned weight.
  """
  codes = params["ids"].creative[jnp.maximum(own, 0)]  # [..., R, Lc]
  return generation.apply(models.generator, params["generator"], "creative_scores", states, codes, own, belief)


def creative_belief(logits):
  """Returns f32[B, C, R]: log-odds of a POI click plus a creative click with each own creative; None without logits.

  logits: of `generation.alone`.
  """
  return None if logits is None else logits["poi"] + logits["creative"]


def choose_creatives(models, params, states, poi, belief=None):
  """Returns creative ids i32[...] for POIs poi i32[...] given the decoder's states [..., d] (EGA Eq. 16-17); -1 for POI
  -1.

  The best of the POI's own creatives: the choice is always one of them; equal codes go to the first. belief: as in
  `creative_scores`.
  """
  own = params["catalog"].poi_creatives[jnp.maximum(poi, 0)]
  best = jnp.argmax(creative_scores(models, params, states, own, belief), axis=-1)
  creative = jnp.take_along_axis(own, best[..., None], axis=-1)[..., 0]
  return jnp.where(poi >= 0, creative, -1)


def by_item(models):
  """Returns whether a candidate has the same creative in every list: where creatives follow their POI alone, as
  `models` (generation.Models) are configured.
  """
  return models.generator.config.creative_context == "item"


def item_creatives(models, params, prepared, items):
  """Returns creatives i32[B, X] of candidates items i32[B, X], each as if it came first in a list; -1 where absent."""
  codes = jnp.maximum(generation.list_codes(prepared.table, items), 0)
  states = generation.apply(models.generator, params["generator"], "creative_states", prepared.memory, codes)
  return _choose_after(models, params, prepared, items, states)


def list_creatives(models, params, prepared, items):
  """Returns creatives i32[B, U, K] of the lists items i32[B, U, K] (EGA Eq. 17); -1 where absent."""
  if by_item(models):
    return item_creatives(models, params, prepared, items.reshape(items.shape[0], -1)).reshape(items.shape)
  codes = generation.list_codes(prepared.table, items)
  _, states = generation.apply(models.generator, params["generator"], "decode", prepared.memory, codes, LIST)
  return _choose_after(models, params, prepared, items, states)


def _choose_after(models, params, prepared, items, states):
  """Returns creatives i32[B, ...] of candidates items i32[B, ...] after the decoder's states [B, ..., d]."""
  belief = None if prepared.alone is None else take_rows(creative_belief(prepared.alone), jnp.maximum(items, 0))
  return choose_creatives(models, params, states, generation.list_pois(prepared.request, items), belief)


@functools.partial(jax.jit, static_argnames=("models",))
def choose_items(models, params, prepared, items):
  """Returns creatives i32[B, X] of candidates items i32[B, X], each as if it came first; -1 where there is none.
  Jitted.
  """
  return item_creatives(models, params, prepared, items)


class Creatives:
  """What each candidate is shown with, by request; the requests asked for least recently are dropped first.

  Args: models: generation.Models with creative_context "item"; params: the tree with "catalog", "ids", "generator";
    limit: requests that are kept.
  """

  def __init__(self, models, params, limit=LIMIT):
    self.models, self.params, self.limit = models, params, limit
    self.forget()

  def forget(self):
    """Drops all that is kept."""
    self.requests = {}

  def __call__(self, prepared, items):
    """Returns i32[B, C]: the creative of every candidate in lists items i32[B, ..., K], -1 where none was asked for."""
    request = prepared.request
    shape = np.shape(request.candidates)
    keys = digests(jax.tree.leaves(request))
    known = [self.requests.pop(key, None) for key in keys]
    known = np.stack([np.full(shape[1], -1, np.int32) if one is None else one for one in known])
    positions = self.unknown(known, items)
    if positions.size:
      found = np.asarray(choose_items(self.models, self.params, prepared, positions))
      row, column = np.nonzero(positions >= 0)
      known[row, positions[row, column]] = found[row, column]
    for key, one in zip(keys, known, strict=True):
      self.requests[key] = one
    while len(self.requests) > self.limit:
      self.requests.pop(next(iter(self.requests)))
    return known

  @staticmethod
  def unknown(known, items):
    """Returns i32[B, X]: the candidates in items i32[B, ..., K] whose creative is -1 in known i32[B, C]; padded with -1
    to a multiple of BLOCK.
    """
    flat = np.asarray(items).reshape(len(known), -1)
    wanted = np.zeros((known.shape[0], known.shape[1] + 1), bool)
    np.put_along_axis(wanted, flat, True, axis=1)  # -1: the last column
    wanted = wanted[:, :-1] & (known < 0)
    width = -(-int(wanted.sum(1).max(initial=0)) // BLOCK) * BLOCK
    order = np.argsort(~wanted, axis=1, kind="stable")[:, :width]
    found = np.where(np.take_along_axis(wanted, order, 1), order, -1).astype(np.int32)
    return np.pad(found, ((0, 0), (0, width - found.shape[1])), constant_values=-1)
