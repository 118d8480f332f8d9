"""How bids enter EGA's lists twice: in the token weights that propose them, and in the score that chooses one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from ega_jax.auction.bidding import lognormal_virtual_bid
from ega_jax.decoding.lists import take_rows
from ega_jax.decoding.slate import best_of, bid_free_order
from ega_jax.systems import generation
from ega_jax.systems.creatives import list_creatives
from ega_jax.types import Slate


@dataclasses.dataclass(frozen=True)
class Options:
  """How EGA uses bids; hashable.

  bid_free: lists are generated from the ads' expected values; bids only choose among them (vcg_range's allocation).
  virtual: share of the ironed virtual value phi in what a bid is worth, (1 - virtual) b + virtual phi(b); 1: phi alone.
    The list score uses it, token weights its positive part.
  value_sigma: log-sd of a value per click given the request, known to the platform.
  """

  bid_free: bool = False
  virtual: float = 0.0
  value_sigma: float = 0.6


def score_bids(options, request, bids, ads=None):
  """Returns what an ad is worth to the list score: its bid, mixed with its virtual bid (negative ones count).

  Args: bids f[B, C] or f[B, G, C], or own bids f[B, A, G] of ads i32[B, A].
  """
  if not options.virtual:
    return bids
  mu = request.value_mu if ads is None else jnp.take_along_axis(request.value_mu, jnp.maximum(ads, 0), axis=1)
  if bids.ndim > mu.ndim:
    mu = mu[:, None] if ads is None else mu[..., None]
  phi = lognormal_virtual_bid(bids, mu, options.value_sigma)
  return phi if options.virtual == 1.0 else (1.0 - options.virtual) * bids + options.virtual * phi


def token_bids(options, bids):
  """Returns what token weights are made of: `score_bids`, negative ones as 0."""
  return jnp.maximum(bids, 0.0) if options.virtual else bids


@functools.partial(jax.jit, static_argnames=("models",))
def believe(models, params, prepared, items):
  """Returns (creatives i32[B, U, K], theta f32[B, U, K]) of distinct lists; -1 and 0 where there is no item.

  Args: models, params: as in `generation`; prepared: its Prepared; items i32[B, U, K], positions in the candidates.
  """
  creatives = list_creatives(models, params, prepared, items)
  return creatives, generation.click_probabilities(models, params, prepared.request, items, creatives)


@functools.partial(jax.jit, static_argnames=("options",))
def choose(options, request, found, creatives, theta, bids, objective):
  """Returns the Slate [B, G, K] of every profile: the best list by score(Y) (EGA Eq. 24).

  Args: options: Options; request: Request; found: Lists of the profiles; creatives i32[B, U, K] and theta f32[B, U, K]
    of its distinct lists; bids f32[B, G, C] per click; objective: slate.Objective, in money.
  """
  worth = score_bids(options, request, bids)
  items, chosen, _ = best_of(found, theta, worth, request.is_ad, objective)
  exists = items >= 0
  shown = jnp.where(exists, take_rows(creatives, chosen), -1)
  return Slate(items=items, creatives=shown, click_probability=jnp.where(exists, take_rows(theta, chosen), 0.0))


@functools.partial(jax.jit, static_argnames=("options",))
def choose_own_bid(options, request, found, creatives, theta, bids, ads, nodes, place, objective):
  """Returns the Slate [B, A, G, K] of own bids nodes f32[B, A, G] of ads i32[B, A], the others at bids f32[B, C].

  The same as `choose` of those profiles: a list is scored once per ad without what the ad bids, which is then added.

  Args: found: Lists of the profiles (ad, one of D cells), with theta and creatives of its distinct lists; place
    i32[B, A, G]: the cell of each node; options, request, objective: as in `choose`.
  """
  batch, num_ads, num_nodes = nodes.shape
  exists = found.items >= 0
  at = jnp.maximum(found.items, 0)
  is_ad = take_rows(request.is_ad, at)
  others = take_rows(score_bids(options, request, bids), at)
  own = (found.items[:, None] == ads[..., None, None]) & exists[:, None]  # [B, A, U, K]
  worth = jnp.where(exists, objective.worth(theta, others, is_ad), 0.0)
  worth = jnp.sum(jnp.where(own, -objective.slot_price, worth[:, None]), -1)  # [B, A, U], the ad bidding 0
  own_theta = jnp.sum(jnp.where(own, theta[:, None], 0.0), -1)
  order = jnp.broadcast_to(bid_free_order(found.items)[:, None], worth.shape)
  shape = (batch, num_ads, -1, found.index.shape[-1])
  index, possible = found.index.reshape(shape), found.log_z.reshape(shape) > -jnp.inf

  rows = jax.vmap(jax.vmap(lambda values, index: values[index]))
  at_nodes = lambda values: rows(rows(values, index), place)  # f[B, A, U] -> f[B, A, G, S]
  score = at_nodes(worth) + at_nodes(own_theta) * score_bids(options, request, nodes, ads)[..., None]
  score = jnp.where(rows(possible, place), score, -jnp.inf)
  best = jnp.max(score, -1, keepdims=True)
  winner = jnp.argmin(jnp.where(score == best, at_nodes(order), found.items.shape[1]), -1)[..., None]
  chosen = jnp.take_along_axis(rows(index, place), winner, -1).reshape(batch, num_ads * num_nodes)
  none = best.reshape(batch, -1, 1) == -jnp.inf
  items = jnp.where(none, -1, take_rows(found.items, chosen))
  read = lambda values, absent: jnp.where(items >= 0, take_rows(values, chosen), absent)
  slate = Slate(items=items, creatives=read(creatives, -1), click_probability=read(theta, 0.0))
  return jax.tree.map(lambda leaf: leaf.reshape(batch, num_ads, num_nodes, -1), slate)
