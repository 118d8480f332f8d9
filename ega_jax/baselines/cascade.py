"""The multi-stage cascade (MCA): recall, pCTR ranking, creative ranking, slots (EGA's baseline; details ours).

MCA-fixed fills fixed ad slots; MCA decides every slot by b * pCTR - slot_price against organic_weight * pCTR; MCA+R
proposes N_S neighbours of that list and shows the one with the best score(Y) under the same reward model as EGA's,
MCA+R-rounds the best neighbour of the best neighbour and so on.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.decoding.neighbours import moves, neighbours
from ega_jax.systems import generation
from ega_jax.systems.choice import Options, score_bids
from ega_jax.systems.distinct import ListClicks
from ega_jax.systems.kept import Kept
from ega_jax.systems.merge import greedy_merge
from ega_jax.systems.rows import at_items
from ega_jax.types import Request, Slate

RANKS = 2**28  # bytes of ranked requests that are kept, whatever the bids


@functools.partial(jax.jit, static_argnames=("ranker",))
def _rank(ranker, params, request):
  """Returns (pCTR f32[B, C], recall f32[B, C], creative i32[B, C]) of every candidate."""
  variables, catalog = {"params": params["ranker"]}, params["catalog"]
  apply = lambda method, *args: ranker.apply(variables, request, catalog, *args, method=method)
  own = catalog.poi_creatives[jnp.maximum(request.candidates, 0)]
  own = jnp.where((request.candidates >= 0)[..., None], own, -1)
  best = jnp.argmax(apply("creative_logits", own), axis=-1)
  creative = jnp.take_along_axis(own, best[..., None], axis=-1)[..., 0]
  return jax.nn.sigmoid(apply("click_logits")), apply("recall_logits"), creative


@functools.partial(jax.jit, static_argnames=("recall_size",))
def _recalled(recall, is_ad, valid, recall_size):
  """Returns bool[B, C]: organic items, and the ads with the best recall scores."""
  ads = is_ad & valid
  if not recall_size or recall_size >= recall.shape[1]:
    return valid
  score = jnp.where(ads, recall, -jnp.inf)
  threshold = jax.lax.top_k(score, recall_size)[0][:, -1:]
  return valid & (~is_ad | (score >= threshold))


class Cascade:
  """MCA as a system.

  Args:
    ranker: models.ranker.Ranker. list_length: K. models: generation.Models, for MCA+R.
    params: the tree with "catalog", "ranker", "market", and "reward" for MCA+R.
    slots: "greedy", or "fixed": `fixed_ads` slots, spread evenly, hold the ads (a share between two whole numbers is
      met by giving some requests, by their row, one more).
    num_lists: N_S of MCA+R; 0 shows the greedy list.
    rounds: how often the best list's neighbours are proposed.
    swap_distance: slots between two that a neighbour swaps, at most.
    recall_size: ads that reach the ranker; 0: all.
    shared: (ListClicks, Kept ranks) of the same cascade at other ad loads; None: its own.
    options: what a bid is worth to the list score; None: itself.
  """

  def __init__(self, name, ranker, params, list_length, *, models=None, slots="greedy", fixed_ads=3.0, num_lists=0,
               rounds=1, swap_distance=3, recall_size=0, shared=None, options=None):  # fmt: skip
    self.name, self.ranker, self.params, self.list_length = name, ranker, params, list_length
    self.settings = {
      "models": models, "slots": slots, "fixed_ads": fixed_ads, "num_lists": num_lists,
      "rounds": rounds, "swap_distance": swap_distance, "recall_size": recall_size, "options": options or Options(),
      "shared": shared or (ListClicks(models, params), Kept(RANKS)),
    }  # fmt: skip
    self.models, self.slots, self.fixed_ads, self.num_lists, self.rounds = models, slots, fixed_ads, num_lists, rounds
    self.recall_size, (self._clicks, self._ranks) = recall_size, self.settings["shared"]
    self.moves = moves(list_length, num_lists, min(swap_distance, list_length - 1)) if num_lists else None

  def with_knob(self, knob):
    """Returns the same cascade at another ad load: the price of an ad slot in median bids, or how many are fixed."""
    fixed = self.slots == "fixed"
    params = self.params if fixed else generation.at_slot_price(self.params, knob)
    settings = {**self.settings, "fixed_ads": knob} if fixed else self.settings
    return Cascade(self.name, self.ranker, params, self.list_length, **settings)

  @property
  def knob(self):
    """What the ad load is set by."""
    return self.fixed_ads if self.slots == "fixed" else float(self.params["market"]["slot_price"])

  @property
  def load_sees_bids(self):
    """Whether the ad load depends on bids: fixed slots have as many ads whatever they bid."""
    return self.slots != "fixed"

  def forget(self):
    """Drops what is kept of earlier calls, at other ad loads too."""
    for kept in self.settings["shared"]:
      kept.forget()

  @property
  def objective(self):
    """What score(Y) sets against bids, in money."""
    return generation.host_objective(self.params)

  @property
  def learned(self):
    """The learned arrays that an allocation reads."""
    return [self.params[part] for part in ("ranker", *(["reward"] if self.num_lists else []))]

  def allocate(self, batch, bids) -> Slate:
    """Returns the Slate [B, G, K] of bids f[B, G, C] per click."""
    request, bids = Request.from_batch(batch), jnp.asarray(bids, jnp.float32)
    request = jax.tree.map(jnp.asarray, request)
    bids = score_bids(self.settings["options"], request, bids)
    pctr, recall, creative = self._ranked(request)
    valid = _recalled(recall, request.is_ad, request.valid, self.recall_size)
    worth = self.objective.worth(pctr[:, None], bids, request.is_ad[:, None])
    if self.slots == "fixed":
      items = self._fixed(worth, request, valid, batch)
    else:
      items = greedy_merge(worth, request.is_ad, valid, self.list_length)
    if self.num_lists:
      items, theta = self._rerank(batch, bids, items, worth, request, valid, creative)
    else:
      theta = at_items(pctr, items, 0.0)
    items = np.asarray(items)
    creatives = at_items(creative, items, -1)
    return Slate(items=items, creatives=creatives, click_probability=theta)

  def _ranked(self, request):
    """Returns `_rank` of a request, which is computed once while it is kept: no bid enters it."""
    return self._ranks.get(request, lambda: _rank(self.ranker, self.params, request))

  def programs(self, batch, bids):
    """Yields (jitted function, its arguments) of one allocation, scoring N_S different neighbours a round."""
    request = jax.tree.map(jnp.asarray, Request.from_batch(batch))
    yield functools.partial(_rank, self.ranker), (self.params, request)
    if self.num_lists:
      items = np.repeat(np.asarray(self.allocate(batch, bids).items[:, :1]), self.num_lists * self.rounds, axis=1)
      yield from self._clicks.programs(request, items, self._ranked(request)[2])

  def _fixed(self, worth, request, valid, batch):
    """Returns lists whose ad slots are fixed before anything is scored."""
    whole, share = int(self.fixed_ads), self.fixed_ads - int(self.fixed_ads)
    more = (np.asarray(batch["row"]) * 0.6180339887) % 1.0 < share
    organic = valid & ~request.is_ad
    # Every list has K items: where ads or organic items are too few, the others take their slots.
    most, least = np.asarray((valid & request.is_ad).sum(-1)), self.list_length - np.asarray(organic.sum(-1))
    counts = np.minimum(np.maximum(np.where(more, whole + 1, whole), least), most)
    slots = np.stack([_spread(count, self.list_length) for count in counts])
    ads = greedy_merge(jnp.where(request.is_ad[:, None], worth, -jnp.inf), request.is_ad, valid & request.is_ad,
                       self.list_length)  # fmt: skip
    organic = greedy_merge(jnp.zeros_like(worth), request.is_ad, organic, self.list_length)
    rank = lambda mask: np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, None]
    pick = lambda lists, mask: np.take_along_axis(np.asarray(lists), np.broadcast_to(rank(mask), lists.shape), -1)
    return np.where(slots[:, None], pick(ads, slots), pick(organic, ~slots))

  def _rerank(self, batch, bids, items, worth, request, valid, creative):
    """Returns (items, theta) [B, G, K] of the neighbour with the best score(Y), after all rounds."""
    score = jnp.where(request.is_ad[:, None], worth, -jnp.inf)
    ranks = int(self.moves[:, 2].max()) + 1
    for _ in range(self.rounds):
      lists = np.asarray(neighbours(items, score, request.is_ad, valid, jnp.asarray(self.moves), ranks))
      batch_size, profiles, num, length = lists.shape
      flat = lists.reshape(batch_size, profiles * num, length)
      theta = self._clicks(batch, flat, creative)
      items, theta = best_list(lists, theta.reshape(lists.shape), bids, batch["is_ad"], self.objective)
    return items, theta


def best_list(lists, theta, bids, is_ad, objective):
  """Returns (items, theta) [B, G, K] of the list with the best score(Y) among S lists; ties to the first.

  Args: lists i[B, G, S, K], positions in the candidates, -1 for none; theta f[B, G, S, K], their click probabilities;
    bids f[B, G, C], what a click is worth to the score; is_ad bool[B, C]; objective: slate.Objective, in money.
  """
  batch_size, profiles, num, length = lists.shape
  place = np.maximum(lists, 0).reshape(batch_size, profiles, num * length)
  own = np.take_along_axis(np.asarray(bids), place, axis=-1).reshape(lists.shape)
  worth = objective.worth(theta, own, at_items(is_ad, lists, False))
  best = np.where(lists >= 0, worth, 0.0).sum(-1).argmax(-1)[..., None, None]
  return tuple(np.take_along_axis(x, best, axis=2)[:, :, 0] for x in (lists, theta))


def _spread(count, length):
  """Returns bool[length] with `count` slots spread evenly."""
  slots = np.zeros(length, bool)
  slots[np.floor((np.arange(count) + 0.5) * length / max(count, 1)).astype(int)] = True
  return slots
