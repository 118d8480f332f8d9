"""log z of every token after every beam of every bid profile, for three shapes of bid profiles (EGA Eq. 21-22).

Each class has `table` (CandidateTable), `prior` (ListPrior, f32[B, C] or None), `num_profiles` and three functions.
`terms(level, under, prior, logits)` does what is needed once per slot (distinct prefix), from its `under`
bool[B, U, C], prior f32[B, U, C] or None and logits f32[B, U, V]; all leaves of its result are [B, U, ...], so that it
may be given some of the slots, and `score` f32[B, U, V] is -inf where a token is illegal. `log_z(terms, level, slot,
tokens) -> f32[B, P, S, D]` takes it to the beams at `slot` i32[B, P, S], for the tokens i32[B, U, D] of each slot
(None: all V). `power()` is (bid / bid_scale)^alpha. `few_tokens`: whether a short list of tokens saves work.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ega_jax.decoding import constraints
from ega_jax.decoding.lists import take_rows


class Terms(NamedTuple):
  """What a step needs of every slot."""

  score: Any  # f32[B, U, V]  -inf where illegal
  extra: Any = ()


def _some(rows, tokens):
  """Returns the columns `tokens` i32[B, U, D] (None: all) of rows f32[B, U, V]."""
  return rows if tokens is None else jnp.take_along_axis(rows, tokens, -1)


def _unweighted(log_mass, prior, logits):
  """Returns f32[B, U, V]: logit + prior of the legal tokens, -inf elsewhere."""
  score = logits if prior is None else log_mass + logits
  return jnp.where(log_mass > -jnp.inf, score, -jnp.inf)


class OneProfile:
  """One bid profile per request: everything is computed per slot. bids f32[B, C], or None for no weights."""

  num_profiles, few_tokens = 1, False

  def __init__(self, table, bids, prior, config):
    self.table, self.bids, self.prior, self.config = table, bids, prior, config

  def terms(self, level, under, prior, logits):
    """Returns Terms whose score is log z."""
    return Terms(constraints.token_log_z(logits, under, self.table, level, self.bids, prior, self.config))

  def log_z(self, terms, level, slot, tokens):
    """Returns f32[B, 1, S, D]."""
    return take_rows(_some(terms.score, tokens), slot)

  def power(self):
    """Returns (bid / bid_scale)^alpha, f32[B, 1, 1, C] or a broadcastable 0."""
    return jnp.zeros(()) if self.bids is None else constraints.bid_power(self.bids, self.config)[:, None, None]


class AnyProfiles:
  """G arbitrary bid profiles f32[B, G, C]: token weights are computed per beam."""

  def __init__(self, table, bids, prior, config):
    self.table, self.bids, self.prior, self.config = table, bids, prior, config
    self.num_profiles = bids.shape[1]

  few_tokens = False

  def terms(self, level, under, prior, logits):
    """Returns Terms of the unweighted tokens."""
    tokens = constraints.one_hot_codes(self.table, level, logits.shape[-1])
    score = _unweighted(constraints.token_log_mass(under, prior, tokens), prior, logits)
    return Terms(score, (under, prior))

  def log_z(self, terms, level, slot, tokens):
    """Returns f32[B, G, S, V]: the weights need the whole vocabulary."""
    under, prior = terms.extra
    one_hot = constraints.one_hot_codes(self.table, level, terms.score.shape[-1])
    score = take_rows(terms.score, slot)
    weight = lambda bids, under, prior: constraints.token_log_weight(
      under, self.table, bids, one_hot, self.config, prior
    )
    prior = None if prior is None else take_rows(jnp.broadcast_to(prior, under.shape), slot)
    weight = jax.vmap(weight, 1, 1)(self.bids, take_rows(under, slot), prior)
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

  def _weigh(self, under, prior, tokens, same):
    """Returns (log of the tokens' mass, their log w at the base bids, each f32[B, U, V], what the own tokens' weights
    need of the other items under them: a tuple of f32[B, U, A]). tokens f32[B, C, V]; same bool[B, C, A]: whether an
    item spells the own token.
    """
    table, bids, config = self.table, self.bids, self.config
    same = (same & (jnp.arange(same.shape[1])[:, None] != self.ads[:, None])).astype(jnp.float32)
    if config.token_bid == "expected":
      # Own tokens as more columns of the same products: a product of a few columns takes as long on CPUs.
      vocabulary, both = tokens.shape[-1], jnp.concatenate([tokens, same], axis=-1)
      relative = jnp.broadcast_to(constraints.relative_mass(prior), under.shape)
      mass = under * relative
      worth = mass * jnp.exp(constraints.item_log_weight(table, bids, config))[:, None]
      total, worth = constraints.sums(mass, both), constraints.sums(worth, both)
      own = take_rows(relative.transpose(0, 2, 1), jnp.maximum(self.ads, 0)).transpose(0, 2, 1)
      log_mass = constraints.log_of_mass(total[..., :vocabulary], prior)
      weight = constraints.expected_log_weight(worth[..., :vocabulary], total[..., :vocabulary])
      return log_mass, weight, (worth[..., vocabulary:], total[..., vocabulary:], own)
    log_mass = constraints.token_log_mass(under, prior, tokens)
    weight = constraints.token_log_weight(under, table, bids, tokens, config, prior)
    if config.token_bid == "max":
      ordered, rank = constraints.ranked(constraints.item_log_weight(table, bids, config))
      return log_mass, weight, (constraints.max_by_token(under, ordered, rank, same),)
    return log_mass, weight, constraints.token_sums(under, table, bids, same, config)

  def _own_log_weight(self, rivals, num):
    """Returns f32[B, A, G, S]: log w of the own token, from its rivals' quantities f32[B, A, G, S] and the own bid."""
    nodes = self.nodes[..., None]
    if self.config.token_bid == "max":
      own = constraints.log_weight(constraints.bid_power(nodes, self.config), self.config.beta)
      return jnp.maximum(rivals[0], own)
    if self.config.token_bid == "expected":
      worth, mass, own_mass = rivals
      own = jnp.exp(constraints.log_weight(constraints.bid_power(nodes, self.config), self.config.beta))
      return constraints.log_weight((worth + own_mass * own) / (mass + own_mass), 0.0)
    count, bids, beta = rivals
    mean_bid = (bids + jnp.maximum(nodes, 0.0)) / (count + 1)
    return constraints.log_weight(
      constraints.bid_power(mean_bid, self.config), (beta + self.config.beta) / (count + 1)
    )

  few_tokens = True

  def terms(self, level, under, prior, logits):
    """Returns Terms: scores at the base bids relative to each slot's best, and quantities f32[B, U, A] of each changed
    ad.
    """
    tokens = constraints.one_hot_codes(self.table, level, logits.shape[-1])
    codes, place = self.table.codes[..., level], jnp.maximum(self.ads, 0)
    code = take_rows(codes, place)
    log_mass, weight, rivals = self._weigh(under, prior, tokens, codes[..., None] == code[:, None])
    free = _unweighted(log_mass, prior, logits)
    score = jnp.where(free > -jnp.inf, free + weight, -jnp.inf)
    best = jnp.max(score, -1, keepdims=True)
    best = jnp.where(jnp.isfinite(best), best, 0.0)
    score, mass = score - best, jnp.exp(score - best)
    mine = jax.nn.one_hot(code, logits.shape[-1], axis=1)
    own = take_rows(under.transpose(0, 2, 1), place) & (self.ads >= 0)[..., None]
    rest = jnp.where(own, constraints.sums(mass, 1.0 - mine).transpose(0, 2, 1), mass.sum(-1)[:, None])
    own_free = jnp.where(own, take_rows((free - best).transpose(0, 2, 1), code), -jnp.inf)
    return Terms(score, (rest.transpose(0, 2, 1), own_free.transpose(0, 2, 1), rivals))

  def log_z(self, terms, level, slot, tokens):
    """Returns f32[B, A * G, S, D]."""
    (batch, ads, nodes), num = self.nodes.shape, slot.shape[-1]
    where = slot.reshape(batch, ads, nodes * num)
    by_ad = lambda values: jnp.take_along_axis(values.transpose(0, 2, 1), where, -1)
    beams = lambda values: by_ad(values).reshape(batch, ads, nodes, num)
    code = take_rows(self.table.codes[..., level], jnp.maximum(self.ads, 0))
    rest, own_free, rivals = terms.extra
    own = beams(own_free) + self._own_log_weight([beams(r) for r in rivals], num)
    total = beams(rest) + jnp.exp(own)
    norm = jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1.0)), 0.0)
    rows = take_rows(_some(terms.score, tokens), slot).reshape(batch, ads, nodes, num, -1)
    which = jnp.arange(rows.shape[-1]) if tokens is None else take_rows(tokens, slot).reshape(rows.shape)
    changed = (which == code[:, :, None, None, None]) & (own > -jnp.inf)[..., None]
    rows = jnp.where(changed, own[..., None], rows) - norm[..., None]
    return rows.reshape(batch, ads * nodes, num, -1)

  def power(self):
    """Returns (bid / bid_scale)^alpha, f32[B, A * G, 1, C]."""
    batch, ads, nodes = self.nodes.shape
    own = jnp.arange(self.bids.shape[-1]) == self.ads[..., None, None]
    bids = jnp.where(own, self.nodes[..., None], self.bids[:, None, None])
    return constraints.bid_power(bids, self.config).reshape(batch, ads * nodes, 1, -1)
