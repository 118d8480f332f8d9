"""log z of every token after every beam of every bid profile, for three shapes of bid profiles (EGA Eq. 21-22).

Each class has `table`, `prior`, `num_profiles`, `log_z(level, under, logits, slot) -> f32[B, P, S, V]` and `power()`.
`under` bool[B, U, C] and `logits` f32[B, U, V] belong to slots, `slot` i32[B, P, S] says where each beam's prefix is.
"""

import jax
import jax.numpy as jnp

from ega_jax.decoding import constraints
from ega_jax.decoding.lists import take_rows


def _unweighted(scores, level, under, logits):
  """Returns (token one-hots f32[B, C, V], f32[B, U, V] logit + prior of the legal tokens, -inf elsewhere)."""
  tokens = constraints.one_hot_codes(scores.table, level, logits.shape[-1])
  mass = constraints.token_log_mass(under, scores.prior, tokens)
  score = logits if scores.prior is None else mass + logits
  return tokens, jnp.where(mass > -jnp.inf, score, -jnp.inf)


class OneProfile:
  """One bid profile per request: everything is computed per slot. bids f32[B, C], or None for no weights."""

  num_profiles = 1

  def __init__(self, table, bids, prior, config):
    self.table, self.bids, self.prior, self.config = table, bids, prior, config

  def log_z(self, level, under, logits, slot):
    """Returns f32[B, 1, S, V]."""
    log_z = constraints.token_log_z(logits, under, self.table, level, self.bids, self.prior, self.config)
    return take_rows(log_z, slot)

  def power(self):
    """Returns (bid / bid_scale)^alpha, f32[B, 1, 1, C] or a broadcastable 0."""
    return jnp.zeros(()) if self.bids is None else constraints.bid_power(self.bids, self.config)[:, None, None]


class AnyProfiles:
  """G arbitrary bid profiles f32[B, G, C]: token weights are computed per beam."""

  def __init__(self, table, bids, prior, config):
    self.table, self.bids, self.prior, self.config = table, bids, prior, config
    self.num_profiles = bids.shape[1]

  def log_z(self, level, under, logits, slot):
    """Returns f32[B, G, S, V]."""
    tokens, score = _unweighted(self, level, under, logits)
    score = take_rows(score, slot)
    weight = jax.vmap(
      lambda bids, under: constraints.token_log_weight(under, self.table, bids, tokens, self.config), 1, 1
    )(self.bids, take_rows(under, slot))
    return constraints.log_normalise(jnp.where(score > -jnp.inf, score + weight, -jnp.inf))

  def power(self):
    """Returns (bid / bid_scale)^alpha, f32[B, G, 1, C]."""
    return constraints.bid_power(self.bids, self.config)[:, :, None]


class OwnBids:
  """A * G profiles that differ from bids f32[B, C] in one ad each: ads i32[B, A] (-1: none) bidding nodes f32[B, A, G].

  A profile changes the weight of one token per prefix and its softmax's sum, nothing else: tokens are weighed once
  per slot at the base bids, and per beam only that token and the sum are replaced. The sum over the other tokens is
  computed without the changed one (never by subtraction, which would cancel).
  """

  def __init__(self, table, bids, ads, nodes, prior, config):
    self.table, self.bids, self.ads, self.nodes, self.prior, self.config = table, bids, ads, nodes, prior, config
    self.num_profiles = nodes.shape[1] * nodes.shape[2]

  def _rivals(self, under, same):
    """Returns what the own token's weight needs of the other items under it, a tuple of f32[B, U, A]."""
    same = same & (jnp.arange(same.shape[1])[:, None] != self.ads[:, None])
    same = same.astype(jnp.float32)
    if self.config.token_bid == "max":
      ordered, rank = constraints.ranked(constraints.item_log_weight(self.table, self.bids, self.config))
      return (constraints.max_by_token(under, ordered, rank, same),)
    return constraints.token_sums(under, self.table, self.bids, same, self.config)

  def _own_log_weight(self, rivals, num):
    """Returns f32[B, A, G, S]: log w of the own token, from its rivals' quantities f32[B, A, G, S] and the own bid."""
    nodes = self.nodes[..., None]
    if self.config.token_bid == "max":
      own = constraints.log_weight(constraints.bid_power(nodes, self.config), self.config.beta)
      return jnp.maximum(rivals[0], own)
    count, bids, beta = rivals
    mean_bid = (bids + jnp.maximum(nodes, 0.0)) / (count + 1)
    return constraints.log_weight(
      constraints.bid_power(mean_bid, self.config), (beta + self.config.beta) / (count + 1)
    )

  def log_z(self, level, under, logits, slot):
    """Returns f32[B, A * G, S, V]."""
    batch, ads, nodes = self.nodes.shape
    vocabulary, num = logits.shape[-1], slot.shape[-1]
    tokens, free = _unweighted(self, level, under, logits)
    weight = constraints.token_log_weight(under, self.table, self.bids, tokens, self.config)
    score = jnp.where(free > -jnp.inf, free + weight, -jnp.inf)
    best = jnp.max(score, -1, keepdims=True)
    best = jnp.where(jnp.isfinite(best), best, 0.0)
    mass = jnp.exp(score - best)
    place = jnp.maximum(self.ads, 0)
    code = take_rows(self.table.codes[..., level], place)
    mine = jax.nn.one_hot(code, vocabulary, axis=1)
    own = take_rows(under.transpose(0, 2, 1), place) & (self.ads >= 0)[..., None]
    rest = jnp.where(own, constraints.sums(mass, 1.0 - mine).transpose(0, 2, 1), mass.sum(-1)[:, None])
    own_free = jnp.where(own, take_rows((free - best).transpose(0, 2, 1), code), -jnp.inf)
    same = self.table.codes[..., level][..., None] == code[:, None]
    rivals = [r.transpose(0, 2, 1) for r in self._rivals(under, same)]
    # from slots to beams, [B, A, U] -> [B, A, G, S]
    where = slot.reshape(batch, ads, nodes * num)
    beams = lambda values: jnp.take_along_axis(values, where, -1).reshape(batch, ads, nodes, num)
    own_score = beams(own_free) + self._own_log_weight([beams(r) for r in rivals], num)
    total = beams(rest) + jnp.exp(own_score)
    norm = jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1.0)), 0.0)
    rows = take_rows(score - best, slot).reshape(batch, ads, nodes, num, vocabulary)
    changed = (mine.transpose(0, 2, 1) > 0)[:, :, None, None] & (own_score > -jnp.inf)[..., None]
    rows = jnp.where(changed, own_score[..., None], rows) - norm[..., None]
    return rows.reshape(batch, ads * nodes, num, vocabulary)

  def power(self):
    """Returns (bid / bid_scale)^alpha, f32[B, A * G, 1, C]."""
    batch, ads, nodes = self.nodes.shape
    own = jnp.arange(self.bids.shape[-1]) == self.ads[..., None, None]
    bids = jnp.where(own, self.nodes[..., None], self.bids[:, None, None])
    return constraints.bid_power(bids, self.config).reshape(batch, ads * nodes, 1, -1)
