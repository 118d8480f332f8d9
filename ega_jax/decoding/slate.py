"""Lists as wholes: rollouts, their log z under teacher forcing, the best of a beam (EGA Eq. 22, 24, 31, 32)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.decoding import constraints
from ega_jax.decoding.lists import proposal_bids, take_rows
from ega_jax.decoding.prior import prior_after


def _pick(log_z, rng, temperature=1.0):
  """Returns i32[B, J]: the most probable token, or with `rng` one sampled from z^(1 / temperature)."""
  if rng is None:
    return jnp.argmax(log_z, -1).astype(jnp.int32)
  alive = jnp.any(log_z > -jnp.inf, -1, keepdims=True)
  return jax.random.categorical(rng, jnp.where(alive, log_z / temperature, 0.0), axis=-1).astype(jnp.int32)


def rollout(decoder, table, bids, prior, config, masked=None, rng=None, temperature=1.0):
  """Returns items i32[B, J, K], positions in the candidates: J lists decoded token by token by z (Eq. 22).

  Where candidates run out the list ends in -1.

  Args:
    decoder: lists.Decoder. table: CandidateTable. config: ListConfig, whose list_length is K.
    bids: f[B, C] per click, or None for no weights.
    prior: a ListPrior, f[B, C] or None.
    masked: bool[B, J, C], candidates that each list does without; None: J = 1 and nothing is dropped.
    rng: sample tokens from z^(1 / temperature); None: take the best.
  """
  batch, candidates = table.valid.shape
  bids = proposal_bids(bids, config, table.slot_charge)
  masked = jnp.zeros((batch, 1, candidates), bool) if masked is None else masked
  num, levels = masked.shape[1], table.codes.shape[-1]
  power = jnp.zeros(()) if bids is None else constraints.bid_power(bids, config)[:, None]

  def item(carry, step):
    cache, items, token = carry
    under, after = constraints.available_items(table, items, masked), prior_after(prior, items)
    for level in range(levels):
      rows, _, logits = decoder.step(cache, token, step * levels + level)
      cache = decoder.write(cache, rows, step * levels + level)
      log_z = constraints.token_log_z(logits, under, table, level, bids, after, config)
      token = _pick(log_z, None if rng is None else jax.random.fold_in(rng, step * levels + level), temperature)
      under = constraints.narrow(under, table, level, token)
    chosen = constraints.resolve(under, power, 0.0 if prior is None else after)
    items = items.at[..., step].set(jnp.where(jnp.any(under, -1), chosen, -1))
    return (cache, items, token), None

  items = jnp.full((batch, num, config.list_length), -1, jnp.int32)
  carry = (decoder.init(num), items, jnp.full((batch, num), -1, jnp.int32))
  return jax.lax.scan(item, carry, jnp.arange(config.list_length))[0][1]


def greedy(decoder, table, bids, prior, config, masked=None):
  """Returns items i32[B, J, K]: the greedy list without each row's masked candidates. Arguments as in `rollout`.

  With row j of masked bool[B, K, C] dropping the j-th item of a list they are the Y*_-i of Eq. 31.
  """
  return rollout(decoder, table, bids, prior, config, masked)


def sampled(decoder, table, bids, prior, config, rng, masked=None, temperature=1.0):
  """Returns items i32[B, J, K]: lists sampled from z, token by token from z^(1 / temperature), independent of each
  other. Arguments as in `rollout`.
  """
  return rollout(decoder, table, bids, prior, config, masked, rng, temperature)


def prefixes_of(items):
  """Returns i32[B, K, K]: for every list step the items before it, -1 elsewhere."""
  steps = jnp.arange(items.shape[-1])
  return jnp.where(steps < steps[:, None], items[:, None, :], -1)


def list_log_z(logits, table, items, bids, prior, config, reuse=False, temperature=1.0):
  """Returns f32[B, K]: log z of each item of the lists `items` i32[B, K] given those before it (the sum over its codes,
  Eq. 22 and 32). temperature: log of what `sampled` draws from, token by token z^(1 / temperature).

  Teacher-forced: logits f[B, K, L, V] come from decoding these items. Differentiable in logits and prior. An absent
  item (-1) has 0, an illegal one -inf, both with gradient 0. bids f[B, C] or None (no weights: plain next-token
  likelihood over legal codes); prior: a ListPrior, f[B, C] or None. reuse: items may repeat and organic order is off
  (next-visit sequences); a table with leading size 1 is then shared by all requests. Under collision="bucket" this is
  the path's log z.
  """
  batch, length = items.shape
  prefix = prefixes_of(items)
  if reuse:
    under = jnp.broadcast_to(table.valid[:, None], (batch, length, table.valid.shape[-1]))
  else:
    under = constraints.available_items(table, prefix)
  prior, bids = prior_after(prior, prefix), proposal_bids(bids, config, table.slot_charge)
  codes = take_rows(jnp.broadcast_to(table.codes, (batch,) + table.codes.shape[1:]), jnp.maximum(items, 0))
  total = jnp.zeros(items.shape)
  for level in range(codes.shape[-1]):
    log_z = constraints.token_log_z(logits[:, :, level], under, table, level, bids, prior, config)
    log_z = log_z if temperature == 1.0 else constraints.log_normalise(log_z / temperature)
    token = codes[..., level]
    total += jnp.take_along_axis(log_z, token[..., None], -1)[..., 0]
    under = constraints.narrow(under, table, level, token)
  return jnp.where(items >= 0, total, 0.0)


class Objective(NamedTuple):
  """What the list score sets against bids, in money; fixed before bids are seen."""

  organic_weight: Any  # f32[]  worth of a click on an organic item
  slot_price: Any = 0.0  # f32[]  price of a slot, charged for every ad shown: the multiplier of the ad load

  def worth(self, theta, bids, is_ad):
    """Returns f[...]: what an item adds to score(Y): bid * theta - slot_price, or organic_weight * theta. Numpy arrays
    stay numpy arrays, float64 if they were and the rates are Python floats.
    """
    where = jnp.where if isinstance(theta, jax.Array) else np.where
    return where(is_ad, bids * theta - self.slot_price, self.organic_weight * theta)


def list_score(theta, bids, is_ad, objective, where=None):
  """Returns score(Y) f[...], in money: the sum of `objective.worth` over items [..., K] (EGA Eq. 24).

  Args: theta, bids f[..., K]: click probabilities, bids per click; is_ad bool[..., K]; where bool[..., K] masks absent
    ones, None: all are there.
  """
  worth = objective.worth(theta, bids, is_ad)
  return jnp.sum(worth if where is None else jnp.where(where, worth, 0.0), -1)


def bid_free_order(items):
  """Returns i32[B, U]: the rank of each list among the request's lists in the order of their item tuples."""
  ranks = lambda lists: jnp.argsort(jnp.lexsort(lists.T[::-1]))
  return jax.vmap(ranks)(items)


def best_of(lists, theta, bids, is_ad, objective):
  """Returns (items i32[B, G, K], chosen i32[B, G] row of lists.items, score f[B, G]): per profile the list of its beam
  with the best score(Y) (EGA Eq. 24).

  theta f[B, U, K] click probabilities of the distinct lists; bids f[B, G, C] (negative ones, as virtual values,
  allowed); is_ad bool[B, C]. Ties go to the list that comes first in the order of item tuples, so that neither bids nor
  z decide them. A profile without any list gets items -1 and score -inf.
  """
  items = take_rows(lists.items, lists.index)
  batch, profiles, num, length = items.shape
  present = items >= 0
  place = jnp.maximum(items, 0)
  worth = jnp.take_along_axis(bids, place.reshape(batch, profiles, num * length), -1).reshape(items.shape)
  score = list_score(take_rows(theta, lists.index), worth, take_rows(is_ad, place), objective, where=present)
  score = jnp.where(lists.log_z > -jnp.inf, score, -jnp.inf)
  best = jnp.max(score, -1, keepdims=True)
  order = take_rows(bid_free_order(lists.items), lists.index)
  winner = jnp.argmin(jnp.where(score == best, order, lists.items.shape[1]), -1)
  chosen = jnp.take_along_axis(lists.index, winner[..., None], -1)[..., 0]
  exists = best[..., 0] > -jnp.inf
  return jnp.where(exists[..., None], take_rows(lists.items, chosen), -1), chosen, best[..., 0]
