"""Allocation probabilities of what a generating system shows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.decoding import slate as slates
from ega_jax.models.ega_config import LIST
from ega_jax.systems import generation
from ega_jax.systems.choice import score_bids, token_bids
from ega_jax.types import Request


@functools.partial(jax.jit, static_argnames=("models",))
def _list_z(models, params, request, items, bids, lists):
  prepared = generation.prepare(models, params, request)
  codes = generation.list_codes(prepared.table, items)
  logits, _ = generation.apply(models.generator, params["generator"], "decode", prepared.memory, codes, LIST)
  log_z = slates.list_log_z(logits, prepared.table, items, bids, prepared.prior, lists)
  return jnp.where(items >= 0, jnp.exp(log_z), 0.0)


def shown_probabilities(system, batch, bids, slate):
  """Returns z f32[B, K] of each entry of the first profile's list given the entries before it (EGA Eq. 22).

  Args: system: an EGASystem; slate: what it allocated to bids f[B, G, C].
  """
  lists = generation.in_market(system.lists, system.params["market"])
  request = Request.from_batch(batch)
  first = token_bids(system.options, score_bids(system.options, request, jnp.asarray(bids[:, 0], jnp.float32)))
  if system.options.bid_free:
    first = generation.expected_bids(request, system.options.value_sigma)
  return np.asarray(_list_z(system.models, system.params, request, jnp.asarray(slate.items[:, 0]), first, lists))
