"""How bids enter EGA's lists twice: in the token weights that propose them, and in the score that chooses one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from ega_jax.auction.bidding import lognormal_virtual_bid
from ega_jax.decoding.lists import take_rows
from ega_jax.decoding.slate import best_of
from ega_jax.systems import generation
from ega_jax.types import Slate


@dataclasses.dataclass(frozen=True)
class Options:
  """How EGA uses bids; hashable.

  bid_free: lists are generated from the ads' expected values; bids only choose among them (vcg_range's allocation).
  virtual: ironed virtual values in the list score, their positive part in the token weights.
  value_sigma: log-sd of a value per click given the request, known to the platform.
  """

  bid_free: bool = False
  virtual: bool = False
  value_sigma: float = 0.6


def score_bids(options, request, bids, ads=None):
  """Returns what an ad is worth to the list score: its bid, or its virtual bid (negative ones count)."""
  if not options.virtual:
    return bids
  mu = request.value_mu if ads is None else jnp.take_along_axis(request.value_mu, jnp.maximum(ads, 0), axis=1)
  return lognormal_virtual_bid(bids, mu[:, None] if ads is None else mu[..., None], options.value_sigma)


def token_bids(options, bids):
  """Returns what token weights are made of: `score_bids`, negative ones as 0."""
  return jnp.maximum(bids, 0.0) if options.virtual else bids


@functools.partial(jax.jit, static_argnames=("models",))
def believe(models, params, prepared, items):
  """Returns (creatives i32[B, U, K], theta f32[B, U, K]) of distinct lists."""
  creatives = generation.list_creatives(models, params, prepared, items)
  return creatives, generation.click_probabilities(models, params, prepared.request, items, creatives)


@functools.partial(jax.jit, static_argnames=("options",))
def choose(options, request, found, creatives, theta, bids, objective):
  """Returns the Slate of every profile: the best list by score(Y) (EGA Eq. 24)."""
  worth = score_bids(options, request, bids)
  items, chosen, _ = best_of(found, theta, worth, request.is_ad, objective)
  exists = items >= 0
  shown = jnp.where(exists, take_rows(creatives, chosen), -1)
  return Slate(items=items, creatives=shown, click_probability=jnp.where(exists, take_rows(theta, chosen), 0.0))
