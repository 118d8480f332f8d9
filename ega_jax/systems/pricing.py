"""What the payment network sees, and the learned payment as a rule (EGA Eq. 25-26, Section 7).

For an ad in a shown list: the click probabilities of the list's slots, the others' bids there, the strongest ads that
were left out, and the pivot price. Nothing of it moves with the ad's own bid except through the list. The paper's rate
form also sees the allocation probabilities z, which do carry the own bid.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.auction import values
from ega_jax.auction.regret import own_bid_nodes
from ega_jax.decoding import slate as slates
from ega_jax.models.ega import LIST
from ega_jax.systems import generation
from ega_jax.types import Request, record

NUM_COMPETITORS = 10


@record
class PaymentInputs:
  """Inputs for one ad in one list; money is divided by the median bid."""

  theta: jax.Array  # f32[..., K]  click probability of each slot
  bids: jax.Array  # f32[..., K]  bids of the slots' ads, the own one and organic ones 0
  is_ad: jax.Array  # bool[..., K]
  competitors: jax.Array  # f32[..., 10, 2]  (bid, click prior) of the strongest unshown ads
  slot: jax.Array  # i32[...]  of the ad, 0 where it is not shown (then nothing is due)
  pivot: jax.Array  # f32[...]  what the ad's presence costs the others, per click
  z: jax.Array  # f32[..., K]  allocation probabilities of the slots


def value_nodes(mu, sigma, num_nodes, span=2.0):
  """Returns absolute own bids f64[..., num_nodes] up to `span` times the 99.9% quantile of lognormal(mu, sigma)."""
  largest = np.exp(mu) * values.Lognormal(0.0, sigma).quantile(0.999)
  return own_bid_nodes(largest, num_nodes, span=span, spacing="geometric")


def pivot_price(score_without, score_others, theta):
  """Returns (best score at own bid 0 - the others' score in this list) / theta f[...] per click, at least 0.

  The VCG payment if the lists did not move with the own bid; they do, so it is an input of the network and no more.
  """
  safe = jnp.where(theta > 0, theta, 1.0)
  return jnp.where(theta > 0, jnp.maximum(score_without - score_others, 0.0) / safe, 0.0)


@functools.partial(jax.jit, static_argnames=("models", "with_z"))
def payment_inputs(models, params, batch, bids, items, theta, ads, score_without, lists, organic_weight, with_z=False):
  """Returns PaymentInputs [B, X] for ads i32[B, X] (positions in the candidates) in lists items i32[B, X, K].

  Args: bids f32[B, X, C] of each profile; theta f32[B, X, K]; score_without f32[B, X]: the best score(Y) when the ad
    bids 0; organic_weight: in money.
  """
  request = Request.from_batch(batch)
  prepared = generation.prepare(models, params, request)
  scale = params["market"]["bid_scale"]
  shown, place = items >= 0, jnp.maximum(items, 0)
  is_ad = jax.vmap(lambda row, index: row[index])(request.is_ad, place) & shown
  own = (items == ads[..., None]) & shown
  listed = jnp.where(is_ad, jnp.take_along_axis(bids, place, axis=-1), 0.0)
  others = jnp.where(own, 0.0, listed)
  score_others = slates.list_score(theta, others, is_ad, organic_weight, where=shown)
  theta_own = jnp.sum(jnp.where(own, theta, 0.0), -1)
  z = jnp.zeros(theta.shape)
  if with_z:
    z = _allocation_probabilities(models, params, prepared, items, bids, lists)
  return PaymentInputs(
    theta=theta,
    bids=others / scale,
    is_ad=is_ad,
    competitors=_competitors(prepared, bids / scale, items),
    slot=jnp.argmax(own, axis=-1),
    pivot=pivot_price(score_without, score_others, theta_own) / scale,
    z=z,
  )


def _competitors(prepared, bids, items):
  """Returns f32[B, X, 10, 2]: bid and click prior of the unshown ads with the largest product of both."""
  position = jnp.arange(bids.shape[-1])
  shown = jnp.any(items[..., None] == position, axis=-2)
  prior = jnp.zeros(prepared.table.valid.shape) if prepared.prior is None else prepared.prior
  log_prior = jax.nn.log_softmax(jnp.where(prepared.table.valid, prior, -jnp.inf), axis=-1)[:, None]
  prior = jnp.broadcast_to(jnp.exp(log_prior), bids.shape)
  worth = jnp.where(prepared.table.is_ad[:, None] & ~shown, bids * prior, 0.0)
  best, index = jax.lax.top_k(worth, min(NUM_COMPETITORS, bids.shape[-1]))
  at = lambda x: jnp.where(best > 0, jnp.take_along_axis(x, index, -1), 0.0)
  pairs = jnp.stack([at(bids), at(prior)], axis=-1)
  return jnp.pad(pairs, ((0, 0), (0, 0), (0, NUM_COMPETITORS - pairs.shape[2]), (0, 0)))


def _allocation_probabilities(models, params, prepared, items, bids, lists):
  """Returns z f32[B, X, K] of each list entry given the entries before it (EGA Eq. 22), under each profile's bids."""
  codes = generation.list_codes(prepared.table, items)
  logits, _ = generation.apply(models.generator, params["generator"], "decode", prepared.memory, codes, LIST)

  def profile(arguments):
    logits, items, bids = arguments
    return slates.list_log_z(logits, prepared.table, items, bids, prepared.prior, lists)

  swap = lambda x: jnp.swapaxes(x, 0, 1)
  log_z = jax.lax.map(profile, (swap(logits), swap(items), swap(bids)))
  return jnp.exp(swap(log_z))
