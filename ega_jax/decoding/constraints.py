"""What may be decoded next and what it is bid (EGA Eq. 21-22): the one place where legality, bids and the item prior
enter decoding.

A step of a list may take any unused ad or exactly the next organic item. An item is spelled by L codes; at a level the
legal tokens are those with a legal item under them, and a token's weight is that of the legal items under it. All
quantities here are matrix products of `under` (bool[B, X, C], the items that a prefix still allows) with one-hot codes,
for X prefixes of a request side by side; nothing loops over prefixes.

This is the candidate-table version; a catalogue trie could answer the same questions.
"""

import jax
import jax.numpy as jnp

_FLOOR = -60.0  # a prior further below the request's best counts as this far: no legal token underflows
_BLOCK = 120  # ranks told apart by one float32 exponent range, four apart each
_LARGEST = 1e30  # of (bid / bid_scale)^alpha: float32 ends at 3e38, and weights are summed over candidates
_SMALLEST = 1e-30  # least token weight: beta = 0 and bid 0 make a token improbable, not illegal


def available_items(table, items, masked=None):
  """Returns bool[B, X, C]: what the next list step may take after `items` i32[B, X, K] (-1: not taken yet). `masked`
  bool[B, X, C] drops candidates.

  Unused ads, and of the organic items left the first in rank.
  """
  position = jnp.arange(table.valid.shape[-1])
  left = jnp.broadcast_to(table.valid[:, None], items.shape[:2] + position.shape)
  for step in range(items.shape[-1]):  # vectorised over candidates; a reduction over steps is much slower on CPU
    left &= items[..., step, None] != position
  if masked is not None:
    left &= ~masked
  organic = left & ~table.is_ad[:, None]
  rank = jnp.where(organic, table.organic_rank[:, None], jnp.iinfo(jnp.int32).max)
  return (left & table.is_ad[:, None]) | (organic & (rank == rank.min(-1, keepdims=True)))


def one_hot_codes(table, level, vocabulary):
  """Returns f32[B, C, V]: each candidate's code at a level."""
  return jax.nn.one_hot(table.codes[..., level], vocabulary, dtype=jnp.float32)


def narrow(under, table, level, token):
  """Returns bool[B, X, C]: the items of `under` whose code at `level` is `token` i32[B, X]."""
  return under & (table.codes[:, None, :, level] == token[..., None])


def sums(weights, tokens):
  """Returns f32[B, X, V]: weights f32[B, X, C] summed by token f32[B, C, V] (or [1, C, V], shared by all requests), in
  full precision on every device.
  """
  precision = jax.lax.Precision.HIGHEST
  if tokens.shape[0] == 1:
    return jnp.einsum("bxc,cv->bxv", weights, tokens[0], precision=precision)
  return jnp.einsum("bxc,bcv->bxv", weights, tokens, precision=precision)


def token_log_mass(under, prior, tokens):
  """Returns f32[B, X, V]: log of the sum of exp(prior_i) over the items of `under` below each token; -inf exactly where
  there is none.

  prior: f32[B, X, C] or [B, 1, C], or None for a count. tokens: f32[B, C, V] from `one_hot_codes`. Differentiable in
  the prior, with no NaN.
  """
  return log_of_mass(sums(under * relative_mass(prior), tokens), prior)


def log_of_mass(mass, prior):
  """Returns f32[B, X, V]: log of masses f32[B, X, V] that are relative to the prior's best (`relative_mass`)."""
  legal = mass > 0
  log_mass = jnp.log(jnp.where(legal, mass, 1.0))
  return jnp.where(legal, log_mass if prior is None else log_mass + _best(prior), -jnp.inf)


def _best(prior):
  return jax.lax.stop_gradient(jnp.max(prior, -1, keepdims=True))


def relative_mass(prior):
  """Returns f32[B, X, C]: exp of the item prior relative to the prefix's best, in (0, 1]; 1 without a prior."""
  return 1.0 if prior is None else jnp.exp(jnp.maximum(prior - _best(prior), _FLOOR))


def bid_power(bids, config):
  """Returns (max(bid, 0) / bid_scale)^alpha f[...] of bids f[...] per click, with a finite gradient at 0."""
  positive = bids > 0
  return jnp.where(positive, jnp.exp(config.alpha * jnp.log(jnp.where(positive, bids, 1.0) / config.bid_scale)), 0.0)


def largest_bid(config) -> float:
  """Returns the bid up to which weights are told apart: beyond it they overflow, and no token is legal any more."""
  return float(config.bid_scale) * _LARGEST ** (1 / max(float(config.alpha), 1.0))


def _item_beta(table, config):
  """Returns beta for ads, organic_beta for organic items."""
  organic = config.beta if config.organic_beta is None else config.organic_beta
  return jnp.where(table.is_ad, config.beta, organic)


def log_weight(power, beta):
  """Returns log(power + beta) f[...], Eq. 21; finite where both are 0."""
  return jnp.log(jnp.maximum(power + beta, _SMALLEST))


def item_log_weight(table, bids, config):
  """Returns f32[..., B, C]: log w of every candidate taken alone, Eq. 21.

  Args: table: CandidateTable; bids f[..., B, C] per click, read at ads only; config: ListConfig.
  """
  return log_weight(jnp.where(table.is_ad, bid_power(bids, config), 0.0), _item_beta(table, config))


def ranked(values):
  """Returns (sorted values [B, C], largest first; rank i32[B, C] of each entry)."""
  order = jnp.argsort(-values, axis=-1)
  return jnp.take_along_axis(values, order, -1), jnp.argsort(order, axis=-1)


def max_by_token(under, ordered, rank, tokens):
  """Returns f32[B, X, V]: the largest value over the items of `under` below each token; -inf where there is none.
  (ordered, rank) come from `ranked`.

  A maximum as matrix products: an item of rank r contributes 4^-r, so the exponent of a token's sum is the best rank
  under it (the rest adds up to less than a third of the leading term, which no rounding carries over). Ranks go in
  blocks of what float32's exponents can tell apart.
  """
  size = rank.shape[-1]
  best = jnp.full((), size, jnp.int32)
  for block in reversed(range(-(-size // _BLOCK))):
    inside = rank // _BLOCK == block
    exponent = _BLOCK - 2 * (rank % _BLOCK)
    power = jax.lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)  # 2^exponent, exactly
    power = jnp.where(inside, power, 0.0)
    total = sums(under.astype(jnp.float32), tokens * power[..., None])
    exponent = (jax.lax.bitcast_convert_type(total, jnp.int32) >> 23) - 127
    best = jnp.where(total > 0, block * _BLOCK + (_BLOCK - exponent) // 2, best)
  ordered = jnp.pad(ordered, ((0, 0), (0, 1)), constant_values=-jnp.inf)
  return jax.vmap(lambda values, index: values[index])(jnp.broadcast_to(ordered, (best.shape[0], size + 1)), best)


def token_sums(under, table, bids, tokens, config):
  """Returns (count, sum of bids, sum of beta) of the items of `under` below each token, each f32[B, X, V].

  Args: under bool[B, X, C]; table: CandidateTable; bids f[B, C] per click, organic and negative ones count as 0; tokens
    f32[B, C, V]; config: ListConfig.
  """
  under = under.astype(jnp.float32)
  bids = jnp.where(table.is_ad, jnp.maximum(bids, 0.0), 0.0)
  beta = _item_beta(table, config)
  return sums(under, tokens), sums(under * bids[:, None], tokens), sums(under * beta[:, None], tokens)


def token_log_weight(under, table, bids, tokens, config, prior=None):
  """Returns f32[B, X, V]: log w of each token (Eq. 21); finite where the token is legal. bids f[B, C] per click.

  "max": of the legal items' weights, which is the weight of the largest bid. "mean": the mean bid of the legal items
  under the token, organic ones bidding 0, to the power alpha, plus their mean beta. "expected": the mean of the legal
  items' weights by their share of the token's prior mass, so that without decoder logits an item's z is its share of
  exp(prior) * w, however the tokens group items. All are non-decreasing in every bid.
  """
  if config.token_bid == "max":
    ordered, rank = ranked(item_log_weight(table, bids, config))
    return max_by_token(under, ordered, rank, tokens)
  if config.token_bid == "expected":
    mass = under * relative_mass(prior)
    worth = mass * jnp.exp(item_log_weight(table, bids, config))[:, None]
    return expected_log_weight(sums(worth, tokens), sums(mass, tokens))
  count, bid_sum, beta_sum = token_sums(under, table, bids, tokens, config)
  count = jnp.maximum(count, 1.0)
  return log_weight(bid_power(bid_sum / count, config), beta_sum / count)


def expected_log_weight(worth, mass):
  """Returns f32[B, X, V]: log w of tokens whose items have a mass f32[B, X, V] and weigh `worth` by it in all."""
  return jnp.log(jnp.maximum(worth / jnp.where(mass > 0, mass, 1.0), _SMALLEST))


def log_normalise(score):
  """Returns log-softmax over the last axis of scores that are -inf where illegal; all -inf where nothing is legal. No
  NaN in value or gradient.
  """
  legal = score > -jnp.inf
  best = jax.lax.stop_gradient(jnp.max(score, -1, keepdims=True))
  best = jnp.where(jnp.isfinite(best), best, 0.0)
  shifted = jnp.where(legal, jnp.where(legal, score, 0.0) - best, 0.0)
  total = jnp.sum(jnp.where(legal, jnp.exp(shifted), 0.0), -1, keepdims=True)
  norm = jnp.log(jnp.where(total > 0, total, 1.0))
  return jnp.where(legal, shifted - norm, -jnp.inf)


def token_log_z(logits, under, table, level, bids, prior, config):
  """Returns f32[B, X, V]: log z of every token given X prefixes (Eq. 22 with the item prior), -inf where illegal.

  z = softmax over legal tokens of logit + logsumexp of the prior of the legal items under the token + log w.

  Args: logits f[B, X, V]; under bool[B, X, C], the items that each prefix still allows; table: CandidateTable; level:
    of the code; bids f[B, C] per click or None (no weights); prior f[B, X, C], [B, 1, C] or None; config: ListConfig.
  """
  tokens = one_hot_codes(table, level, logits.shape[-1])
  score = token_log_mass(under, prior, tokens)
  legal = score > -jnp.inf
  score = (score if prior is not None else 0.0) + logits
  if bids is not None:
    score += jnp.where(legal, token_log_weight(under, table, bids, tokens, config, prior), 0.0)
  return log_normalise(jnp.where(legal, score, -jnp.inf))


def resolve(under, power, prior):
  """Returns i32[...]: of the items of `under` bool[..., C] the one with the highest bid^alpha * exp(prior); ties by
  prior, then position, never by bid.

  power: (bid / bid_scale)^alpha, broadcastable to [..., C]; prior likewise. Where `under` holds one item, that item.
  """
  prior = jnp.broadcast_to(prior, under.shape)
  key = jnp.where(power > 0, jnp.log(jnp.where(power > 0, power, 1.0)) + prior, -jnp.inf)
  key = jnp.where(under, key, -jnp.inf)
  tied = under & (key == jnp.max(key, -1, keepdims=True))
  return jnp.argmax(jnp.where(tied, jnp.maximum(prior, jnp.finfo(prior.dtype).min), -jnp.inf), -1).astype(jnp.int32)
