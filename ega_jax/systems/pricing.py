"""What the payment networks see of an ad, from a system's lists (EGA Eq. 25-26, Section 7)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from ega_jax.auction import values
from ega_jax.auction.regret import own_bid_nodes, with_own_bid
from ega_jax.decoding import slate as slates
from ega_jax.models.ega_config import LIST
from ega_jax.models.payment import RateInputs, menu_inputs
from ega_jax.systems import generation
from ega_jax.systems.choice import score_bids, token_bids
from ega_jax.systems.rows import own_of
from ega_jax.types import Request


def value_nodes(mu, sigma, num_nodes, span=2.0):
  """Returns absolute own bids f64[..., num_nodes] up to `span` times the 99.9% quantile of lognormal(mu f[...], sigma).

  Geometric, since values are heavy-tailed; independent of any report.
  """
  largest = np.exp(mu) * values.Lognormal(0.0, sigma).quantile(0.999)
  return own_bid_nodes(largest, num_nodes, span=span, spacing="geometric")


def node_weights(nodes, mu, sigma):
  """Returns f64[..., G]: the probability that a lognormal(mu f[...], sigma) value rounds down to each node."""
  with np.errstate(divide="ignore"):
    below = stats.norm.cdf((np.log(nodes) - mu[..., None]) / sigma)
  return np.maximum(np.diff(below, axis=-1, append=1.0), 0.0) + 1e-12


def value_location(batch, ads):
  """Returns mu f64[B, A] of ads i32[B, A]'s lognormal values; that of candidate 0 where there is no ad."""
  return np.take_along_axis(np.asarray(batch["value_mu"], np.float64), np.maximum(ads, 0), axis=1)


def price_inputs(system, batch, bids, ads, x, num_nodes, sigma, table=None):
  """Returns PriceInputs [B, A]: the own-bid curves of ads i32[B, A] at `num_nodes` fixed bids, the others at f32[B, C].

  Args: system: an EGASystem; batch: request columns; x f32[B, A, G]: click probabilities in the lists shown; sigma:
    log-sd of a value; table: a CounterfactualTable of the same ads, whose nodes save the sweep if they include the
    fixed bids.
  """
  mu = value_location(batch, ads)
  nodes = value_nodes(mu, sigma, num_nodes)
  curve = None if table is None else _read(table, nodes)
  if curve is None:
    slate = system.sweep(batch, bids, ads, nodes)
    curve = own_of(slate.click_probability, slate.items, ads)
  scale = float(system.params["market"]["bid_scale"])
  arrays = (nodes / scale, curve, node_weights(nodes, mu, sigma), x)
  return menu_inputs(*(jnp.asarray(array, jnp.float32) for array in arrays))


def _read(table, nodes):
  """Returns x f[B, A, M] of the table at `nodes` f[B, A, M], None where it has not all of them."""
  index = np.abs(table.nodes[..., None, :] - nodes[..., None]).argmin(-1)
  found = np.take_along_axis(np.asarray(table.nodes), index, -1)
  return np.take_along_axis(np.asarray(table.x), index, -1) if np.allclose(found, nodes, rtol=1e-6, atol=0) else None


def rate_inputs(system, batch, bids, ads, nodes, slate):
  """Returns RateInputs [B, A, G] of ads i32[B, A] bidding nodes f[B, A, G], the others bids f32[B, C].

  Args: system: an EGASystem; batch: request columns; slate: Slate [B, A, G, K], what is shown then.
  """
  shape = nodes.shape
  flat = lambda leaf: np.asarray(leaf).reshape(shape[0], shape[1] * shape[2], -1)
  moved, own = np.repeat(ads, shape[2], axis=1), np.asarray(nodes, np.float32).reshape(shape[0], -1)
  changed = with_own_bid(np.asarray(bids, np.float32), moved, own)
  lists = generation.in_market(system.lists, system.params["market"])
  items, theta = flat(slate.items), flat(slate.click_probability)
  found = _rate_inputs(
    system.models, system.options, system.params, batch, jnp.asarray(changed), items, theta, moved, lists
  )  # fmt: skip
  return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[2:]), found)


@functools.partial(jax.jit, static_argnames=("models", "options"))
def _rate_inputs(models, options, params, batch, bids, items, theta, ads, lists):
  """Returns RateInputs [B, X] of profiles bids f32[B, X, C], ads i32[B, X], lists items i32[B, X, K], theta f32."""
  request = Request.from_batch(batch)
  prepared = generation.prepare(models, params, request)
  shown, place = items >= 0, jnp.maximum(items, 0)
  is_ad = jax.vmap(lambda row, index: row[index])(request.is_ad, place) & shown
  own = (items == ads[..., None]) & shown
  others = jnp.where(is_ad & ~own, jnp.take_along_axis(bids, place, axis=-1), 0.0)
  worth = token_bids(options, score_bids(options, request, bids))
  z = _allocation_probabilities(models, params, prepared, items, worth, lists)
  scale = params["market"]["bid_scale"]
  return RateInputs(bids=others / scale, probability=z * theta, slot=jnp.argmax(own, axis=-1))


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
