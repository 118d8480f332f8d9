"""List generation without bids (GR: OneRec-like generation, then GSP on its ads).

GR shows the generator's most probable bid-free list, its ads ranked by b * pCTR into the list's ad slots. GR+R shows
the one of N_S bid-free lists with the best score(Y): that is EGASystem with `bid_free`, priced by GSP.
"""


import jax.numpy as jnp
import numpy as np

from ega_jax.systems.distinct import ListClicks
from ega_jax.systems.ega import EGASystem
from ega_jax.systems.rows import at_items
from ega_jax.types import Slate


class ListGeneration:
  """GR as a system over `generator`, an EGASystem whose lists ignore bids.

  Raises: ValueError if they do not.
  """

  load_sees_bids = False  # they only rank the ads of a list

  def __init__(self, name, generator: EGASystem):
    if not generator.options.bid_free:
      raise ValueError("the generator of GR must have options.bid_free")
    self.name, self.generator = name, generator

  @property
  def knob(self):
    """The price of an ad slot in median bids, by which the ad load is set."""
    return self.generator.knob

  def forget(self):
    """Drops what is kept of earlier calls."""
    self.generator.forget()

  def programs(self, batch, bids):
    """Yields (jitted function, its arguments) of one allocation but the scores of its one last list."""
    return self.generator.programs(batch, np.zeros((len(bids), 1, np.shape(bids)[-1]), np.float32))

  @property
  def objective(self):
    """What score(Y) sets against bids, in money."""
    return self.generator.objective

  @property
  def learned(self):
    """The learned arrays that an allocation reads."""
    return self.generator.learned

  def with_knob(self, slot_price):
    """Returns the same system at another ad load."""
    return ListGeneration(self.name, self.generator.with_knob(slot_price))

  def allocate(self, batch, bids) -> Slate:
    """Returns the Slate [B, G, K] of bids f[B, G, C] per click."""
    bids = np.asarray(bids, np.float32)
    found, creatives, theta = self.generator.propose(batch, jnp.zeros((len(bids), 1, bids.shape[-1])))
    rows = np.arange(len(bids))
    best = np.asarray(found.index)[:, 0, 0]
    items, theta, creatives = (np.asarray(x)[rows, best] for x in (found.items, theta, creatives))
    ranked = rank_ads(items, theta, bids, np.asarray(batch["is_ad"]))
    creative_of = np.zeros(np.shape(batch["candidates"]), np.int32)
    request, slot = np.nonzero(items >= 0)
    creative_of[request, items[request, slot]] = creatives[request, slot]
    model = self.generator
    theta = ListClicks(model.models, model.params)(batch, ranked, creative_of)
    shown = at_items(creative_of, ranked, -1)
    return Slate(items=ranked, creatives=shown, click_probability=theta)


def rank_ads(items, theta, bids, is_ad):
  """Returns lists i32[B, G, K]: items i32[B, K] with the ads of each list ranked by bid * theta among their slots."""
  place = np.maximum(items, 0)
  ad = np.take_along_axis(is_ad, place, axis=1) & (items >= 0)
  own = np.take_along_axis(bids, np.broadcast_to(place[:, None], (*bids.shape[:2], items.shape[1])), axis=-1)
  worth = np.where(ad[:, None], own * theta[:, None], -np.inf)
  by_worth = np.argsort(-worth, axis=-1, kind="stable")
  rank = np.maximum(np.cumsum(ad, axis=1) - 1, 0)
  source = np.take_along_axis(by_worth, np.broadcast_to(rank[:, None], by_worth.shape), axis=-1)
  ranked = np.take_along_axis(np.broadcast_to(items[:, None], by_worth.shape), source, axis=-1)
  return np.where(ad[:, None], ranked, items[:, None]).astype(np.int32)
