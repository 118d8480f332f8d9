"""The generator: history encoder, POI decoder, creative module and item prior (EGA Eq. 13-17).

One Linen module whose methods are the steps of generation. Departures from the paper, each our decision: the encoder
sees a few context tokens before the history; event tokens also carry the POI's content, id and distance; an item prior
over the request's candidates is available beside the decoder's code logits.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ega_jax.models.features import candidate_features, moment
from ega_jax.models.list_prior import ListContextPrior
from ega_jax.models.visit_counts import START, visit_counts
from ega_jax.nn.embedding import CodeEmbedding, IdEmbedding
from ega_jax.nn.linear import Dense, RMSNorm, constrain, partitioned
from ega_jax.nn.multi_token import MultiTokenModule
from ega_jax.nn.transformer import DecoderBlock, EncoderBlock
from ega_jax.types import record

NEXT_VISITS, LIST = 0, 1
NUM_TASKS = 2
NUM_CONTEXT = 3  # user, place, hour
NUM_AGES = 16  # event ages in powers of two hours
UNKNOWN_AGE = 8.0  # hours between a user's visits, where it is not known: neither just now nor long ago


@dataclasses.dataclass(frozen=True)
class EGAConfig:
  """Sizes of the generator. Vocabularies count the codes of the widest level, suffix included."""

  num_pois: int
  num_users: int
  poi_levels: int = 4
  poi_vocabulary: int = 64
  creative_levels: int = 3
  creative_vocabulary: int = 64
  width: int = 64
  num_layers: int = 2
  num_heads: int = 4
  mlp_width: int = 192
  decoder_kv_heads: int = 1  # shared by the decoder's query heads, as the cache is what beam search moves; 0: unshared
  history_items: int = 20
  max_items: int = 10  # longest sequence of POIs that is decoded
  cross_attention: str = "events"  # "events": one memory state per event; "tokens": the paper's, one per code
  item_prior: bool = True
  prior_width: int = 32
  list_prior: bool = True  # with item_prior: what the list so far says of the others; memory [candidates, candidates]
  creative_context: str = "item"  # what a creative follows: its POI alone, or the paper's "prefix", the list so far
  creative_chain: bool = True  # False: the codes are predicted independently of each other (the paper's ablation)
  dropout: float = 0.1
  user_dropout: float = 0.1
  click_dropout: float = 0.1  # share of training rows whose clicks are hidden, so that visits alone suffice
  dtype: Any = jnp.float32
  remat: bool = False  # recompute each block in the backward pass: activations of one block at a time, 1/3 more flops

  def __post_init__(self):
    if self.cross_attention not in ("events", "tokens"):
      raise ValueError(f"cross_attention is {self.cross_attention!r}; allowed: 'events', 'tokens'")
    if self.creative_context not in ("item", "prefix"):
      raise ValueError(f"creative_context is {self.creative_context!r}; allowed: 'item', 'prefix'")


def tiny(**sizes):
  """Returns the preset of tests: width 32, one block."""
  return EGAConfig(**{"width": 32, "num_layers": 1, "num_heads": 2, "mlp_width": 64, "history_items": 8, **sizes})


def small(**sizes):
  """Returns the preset of two CPU cores: width 64, two blocks, 20 events of history."""
  return EGAConfig(**sizes)


def paper(**sizes):
  """Returns the paper's sizes: 3 blocks, 3 codes of 1024 (and a suffix), K = 10, 256 tokens (32 events) of history.

  Widths are not reported; ours are those of a common encoder-decoder of this depth (512, 8 heads of 64, 4 x 512).
  """
  reported = {"num_layers": 3, "poi_vocabulary": 1024, "creative_vocabulary": 1024, "history_items": 32}
  ours = {"width": 512, "num_heads": 8, "mlp_width": 2048, "decoder_kv_heads": 0, "prior_width": 64}
  ours |= {"cross_attention": "tokens", "creative_context": "prefix", "list_prior": False}
  return EGAConfig(**{**reported, **ours, **sizes})


@record
class Memory:
  """A request as the decoder sees it."""

  states: Any  # f[B, S, d]
  mask: Any  # bool[B, S]
  cross_keys: Any  # f[layers, B, S, heads, dh]
  cross_values: Any  # f[layers, B, S, heads, dh]
  summary: Any  # f[B, d]


def recent_events(request, count):
  """Returns the request with its last `count` events (the history is right-aligned)."""
  names = ("history_poi", "history_creative", "history_action", "history_hour", "history_age")
  return dataclasses.replace(request, **{name: getattr(request, name)[:, -count:] for name in names})


def hide_time(request, hidden):
  """Returns the request as known at its last event where hidden bool[B]: no hour of its own, ages as if that event had
  been UNKNOWN_AGE ago.
  """
  present = request.history_poi >= 0
  last = jnp.where(present, request.history_age, jnp.inf).min(axis=1, keepdims=True)
  age = jnp.where(present, request.history_age - last + UNKNOWN_AGE, 0.0)
  return dataclasses.replace(
    request, hour=jnp.where(hidden, -1, request.hour), history_age=jnp.where(hidden[:, None], age, request.history_age)
  )  # fmt: skip


def hide_clicks(request, hidden):
  """Returns the request whose clicks are gone where hidden bool[B]; their places stay empty."""
  gone = hidden[:, None] & (request.history_action > 1)
  poi = jnp.where(gone, -1, request.history_poi)
  action = jnp.where(gone, 0, request.history_action)
  return dataclasses.replace(request, history_poi=poi, history_action=action)


class HistoryEmbedder(nn.Module):
  """Token embeddings of `context, SEP P.. C.., SEP P.. C..` (EGA Eq. 14)."""

  config: EGAConfig

  @nn.compact
  def __call__(self, request, ids, catalog, poi_codes, creative_codes, *, deterministic=True):
    """Returns (context [B, 3, d], events [B, H, 1 + L + Lc, d], event mask bool[B, H])."""
    present = request.history_poi >= 0
    codes = jnp.where(present[..., None], ids.poi[jnp.maximum(request.history_poi, 0)], -1)
    shown = present & (request.history_creative >= 0)
    creative = jnp.where(shown[..., None], ids.creative[jnp.maximum(request.history_creative, 0)], -1)
    separator = self._separator(request, catalog)[:, :, None]
    tokens = jnp.concatenate([separator, poi_codes(codes), creative_codes(creative)], axis=2)
    slot = self._table("slot", tokens.shape[2])
    order = self._table("order", self.config.history_items)[-tokens.shape[1] :]
    return self._context(request, deterministic), tokens + slot + order[:, None], present

  def _table(self, name, size):
    initializer = partitioned(nn.initializers.normal(0.1), (None, "embed"))
    return self.param(name, initializer, (size, self.config.width)).astype(self.config.dtype)

  def _dense(self, name, names=(None, "embed")):
    return Dense(self.config.width, names=names, dtype=self.config.dtype, name=name)

  def _separator(self, request, catalog):
    poi = jnp.maximum(request.history_poi, 0)
    age = jnp.log2(1 + jnp.maximum(request.history_age, 0.0)).astype(jnp.int32)
    hour = jnp.where(request.history_hour >= 0, request.history_hour, 168)
    offset = catalog.poi_place[poi] - request.place[:, None, :]
    distance = jnp.sqrt(jnp.sum(jnp.square(offset), -1, keepdims=True))
    x = self._table("action", 4)[jnp.clip(request.history_action, 0, 3)]
    x = x + self._table("age", NUM_AGES)[jnp.minimum(age, NUM_AGES - 1)]
    x = x + self._table("event_hour", 169)[hour]
    x = x + IdEmbedding(self.config.num_pois, self.config.width, dtype=self.config.dtype, name="poi_id")(poi)
    return x + self._dense("content")(catalog.poi_embedding[poi]) + self._dense("distance")(jnp.log1p(distance))

  def _context(self, request, deterministic):
    user = request.user
    if not deterministic and self.config.user_dropout > 0:
      dropped = jax.random.bernoulli(self.make_rng("dropout"), self.config.user_dropout, user.shape)
      user = jnp.where(dropped, -1, user)
    hour = jnp.where(request.hour >= 0, request.hour, 168)
    parts = [
      IdEmbedding(self.config.num_users, self.config.width, name="user")(user),
      self._dense("place")(request.place / 10.0),
      self._table("hour", 169)[hour],
    ]
    return jnp.stack([part.astype(self.config.dtype) for part in parts], axis=1) + self._table("context", NUM_CONTEXT)


class Encoder(nn.Module):
  """Returns (states [B, S, d], mask [B, S], summary [B, d]) of the embedded history (EGA Eq. 14)."""

  config: EGAConfig

  @nn.compact
  def __call__(self, context, events, present, *, deterministic=True):
    config, (batch, count, slots, width) = self.config, events.shape
    x = jnp.concatenate([context, events.reshape(batch, count * slots, width)], axis=1)
    mask = jnp.concatenate([jnp.ones((batch, NUM_CONTEXT), bool), jnp.repeat(present, slots, axis=1)], axis=1)
    x = nn.Dropout(config.dropout, deterministic=deterministic)(constrain(x))
    for layer in range(config.num_layers):
      block = EncoderBlock(
        config.width, config.num_heads, config.mlp_width, config.dropout, config.dtype, name=f"layer_{layer}"
      )
      run = lambda block, x: block(x, mask=mask[:, None, None, :], deterministic=deterministic)
      x = (nn.remat(run) if config.remat else run)(block, x)
    x = RMSNorm(name="norm")(x)
    weights = mask.astype(x.dtype)[..., None]
    mean = jnp.sum(x * weights, axis=1) / jnp.sum(weights, axis=1)
    both = jnp.concatenate([mean, x[:, 0], x[:, 1], x[:, 2]], axis=-1)
    summary = Dense(width, names=("mlp", "embed"), dtype=config.dtype, name="summary")(both)
    summary = RMSNorm(name="summary_norm")(summary)
    if config.cross_attention == "events":
      keep = jnp.concatenate([jnp.arange(NUM_CONTEXT), NUM_CONTEXT + slots * jnp.arange(count)])
      x, mask = x[:, keep], mask[:, keep]
    return x, mask, summary


class PoiDecoder(nn.Module):
  """Causal decoder over POI codes with cross-attention (EGA Eq. 15); learned positions."""

  config: EGAConfig

  def setup(self):
    config = self.config
    table = partitioned(nn.initializers.normal(0.1), (None, "embed"))
    self.begin = self.param("begin", table, (NUM_TASKS, config.width))
    self.positions = self.param("positions", table, (config.max_items * config.poi_levels + 1, config.width))
    size = (config.width, config.num_heads, config.mlp_width, config.dropout, config.dtype, config.decoder_kv_heads)
    self.layers = [DecoderBlock(*size, name=f"layer_{i}") for i in range(config.num_layers)]
    self.norm = RMSNorm()

  def project_memory(self, states):
    """Returns (keys, values), each [layers, B, S, heads, dh]."""
    keys, values = zip(*[layer.project_memory(states) for layer in self.layers], strict=True)
    return jnp.stack(keys), jnp.stack(values)

  def __call__(self, embedded, memory, task, *, deterministic=True):
    """Returns states [B, U, 1 + J, d]: after BOI and after each of the embedded codes [B, U, J, d]."""
    begin = jnp.broadcast_to(self.begin[task].astype(embedded.dtype), (*embedded.shape[:2], 1, embedded.shape[-1]))
    x = jnp.concatenate([begin, embedded], axis=2)
    x = x + self.positions[: x.shape[2]].astype(x.dtype)
    run = lambda layer, *arrays: layer(*arrays, deterministic=deterministic)
    run = nn.remat(run) if self.config.remat else run
    for i, layer in enumerate(self.layers):
      x = run(layer, x, memory.cross_keys[i], memory.cross_values[i], memory.mask)
    return self.norm(x)

  def step(self, embedded, cache, position, memory, task):
    """Returns (cache, states [B, U, d]) after the code embedded [B, U, d] at `position`; BOI where position is 0."""
    begin = self.begin[task].astype(embedded.dtype)
    x = jnp.where(jnp.asarray(position) == 0, begin, embedded) + self.positions[position].astype(embedded.dtype)
    caches = []
    for i, layer in enumerate(self.layers):
      keys, values = memory.cross_keys[i], memory.cross_values[i]
      updated, x = layer.step(x, cache[i], position, keys, values, memory.mask)
      caches.append(updated)
    return tuple(caches), self.norm(x)


class ItemPrior(nn.Module):
  """Returns f32[B, C]: how likely each candidate is next, before any code is decoded, per task.

  A belief about clicks, once there is a reward model, enters as it is: what is known of every candidate alone need not
  be learned again, and the decoder learns what the list adds.
  """

  config: EGAConfig

  @nn.compact
  def __call__(self, summary, request, catalog, candidates, is_ad, task, belief=None):
    config, safe = self.config, jnp.maximum(candidates, 0)
    features = candidate_features(request, catalog, candidates)
    query = Dense(config.width, names=("embed", "mlp"), dtype=config.dtype, name="query")(summary)
    match = self._match(query, catalog, safe) * config.width**-0.5
    bias = IdEmbedding(config.num_pois, 1, name="bias")(safe)
    ad = jnp.zeros(candidates.shape) if is_ad is None else is_ad
    x = jnp.concatenate([features, match[..., None], bias, ad[..., None]], axis=-1)
    now = moment(request)[:, None]
    seen = jnp.concatenate([x, jnp.broadcast_to(now, (*x.shape[:2], now.shape[-1]))], axis=-1)
    hidden = nn.relu(Dense(config.prior_width, names=(None, "mlp"), name="hidden")(seen))
    both = jnp.concatenate([x, hidden], axis=-1)
    heads = Dense(NUM_TASKS, names=(None, None), kernel_init=nn.initializers.normal(0.02), name="heads")(both)
    prior = heads[..., task].astype(jnp.float32) + self._counts(request, catalog, candidates, task)
    weight = self.param("belief", partitioned(nn.initializers.ones, (None,)), (1,))
    prior = prior if belief is None else prior + weight * belief
    return jnp.where(candidates >= 0, prior, 0.0)

  def _counts(self, request, catalog, candidates, task):
    """Returns f[B, C]: a learned weight times the logarithm of `visit_counts`.

    A count-based recommender is confident where there is much to count and follows its prior elsewhere; no sum of
    logits is that. Its own weights are tuned on windows and not by gradients (`stages/habits.py`).
    """
    zeros = partitioned(nn.initializers.zeros, (None, None))
    offsets = jax.lax.stop_gradient(self.param("visit_weights", zeros, (2, len(START))))
    first = partitioned(lambda key, shape: jnp.eye(1, *shape)[0], (None,))  # 1 for next visits
    weight = self.param("counts", first, (NUM_TASKS,))[task]
    return weight * jnp.log(visit_counts(request, catalog, candidates, offsets))

  def _match(self, query, catalog, pois):
    """Returns f[B, C]: inner products of the query [B, d] with POI vectors; of the whole catalogue if less."""
    config, size = self.config, catalog.poi_embedding.shape[0]
    shared = size <= pois.size
    ids = jnp.arange(size) if shared else pois
    content = Dense(config.width, names=(None, "embed"), dtype=config.dtype, name="content")(catalog.poi_embedding[ids])
    vectors = content + IdEmbedding(config.num_pois, config.width, name="poi_id")(ids)
    if shared:
      return jnp.take_along_axis(jnp.einsum("pd,bd->bp", vectors, query), pois, axis=1)
    return jnp.einsum("bcd,bd->bc", vectors, query)


class EGA(nn.Module):
  """The generator. Its methods are called through `module.apply({"params": p}, ..., method="encode")`."""

  config: EGAConfig

  def setup(self):
    c = self.config
    self.poi_codes = CodeEmbedding(c.poi_levels, c.poi_vocabulary, c.width, c.dtype)
    self.creative_codes = CodeEmbedding(c.creative_levels, c.creative_vocabulary, c.width, c.dtype, learn_absent=True)
    self.history = HistoryEmbedder(c)
    self.encoder = Encoder(c)
    self.poi_decoder = PoiDecoder(c)
    head = partitioned(nn.initializers.normal(c.width**-0.5), (None, "embed", "vocab"))
    heads = partitioned(nn.initializers.normal(c.width**-0.5), (None, None, "embed", "vocab"))
    self.poi_head = self.param("poi_head", heads, (NUM_TASKS, c.poi_levels, c.width, c.poi_vocabulary))
    self.creative_module = MultiTokenModule(c.width, c.num_heads, c.mlp_width, c.dtype)
    self.creative_head = self.param("creative_head", head, (c.creative_levels, c.width, c.creative_vocabulary))
    begin = partitioned(nn.initializers.normal(c.width**-0.5), ("embed",))
    self.creative_begin = self.param("creative_begin", begin, (c.width,))
    self.creative_belief = self.param("creative_belief", partitioned(nn.initializers.ones, (None,)), (1,))
    if c.item_prior:
      self.item_prior = ItemPrior(c)
    if c.item_prior and c.list_prior:
      self.list_prior = ListContextPrior(c.max_items)

  def encode(self, request, ids, catalog, *, deterministic=True, visits_only=False):
    """Returns the Memory of a request. `visits_only` hides its clicks; training hides those of some rows at random."""
    request, ids, catalog = jax.tree.map(jnp.asarray, (request, ids, catalog))
    hidden = jnp.full(request.user.shape, visits_only)
    if not deterministic and self.config.click_dropout > 0:
      drawn = jax.random.bernoulli(self.make_rng("dropout"), self.config.click_dropout, request.user.shape)
      hidden = hidden | drawn
    request = hide_clicks(recent_events(request, self.config.history_items), hidden)
    embedded = self.history(
      request, ids, catalog, self.poi_codes, self.creative_codes, deterministic=deterministic
    )
    states, mask, summary = self.encoder(*embedded, deterministic=deterministic)
    keys, values = self.poi_decoder.project_memory(states)
    return Memory(states=states, mask=mask, cross_keys=keys, cross_values=values, summary=summary)

  def candidate_logits(self, memory, request, catalog, candidates, *, is_ad=None, task=LIST, belief=None):
    """Returns f32[B, C]: the item prior g of candidates i32[B, C]; zeros if config.item_prior is off.

    belief: f32[B, C], the log click probability of each candidate alone, added with a learned weight; None: not known.
    """
    if not self.config.item_prior:
      return jnp.zeros(candidates.shape, jnp.float32)
    request, catalog = jax.tree.map(jnp.asarray, (request, catalog))
    return self.item_prior(memory.summary, request, catalog, candidates, is_ad, task, belief)

  def candidate_relations(self, catalog, candidates):
    """Returns (relation f32[B, C, C], decay f32[K], ad_slot f32[K]) of candidates i32[B, C] (`ListContextPrior`)."""
    return self.list_prior(jax.tree.map(jnp.asarray, catalog), candidates)

  def decode(self, memory, codes, task, *, deterministic=True):
    """Returns (logits [B, T, L, V], states [B, T, d]), teacher-forced on POI codes i32[B, T, L].

    Logits t, l predict code l of POI t from everything before it; state t comes after the last code of POI t.
    Codes [B, U, T, L] decode U sequences of each request and give [B, U, T, ..].
    """
    several = codes if codes.ndim == 4 else codes[:, None]
    batch, lists, items, levels = several.shape
    embedded = self.poi_codes(several).reshape(batch, lists, items * levels, -1)
    states = self.poi_decoder(embedded, memory, task, deterministic=deterministic)
    before = states[:, :, :-1].reshape(batch, lists, items, levels, -1)
    logits = jnp.einsum("butld,ldv->butlv", before, self.poi_head[task].astype(before.dtype)).astype(jnp.float32)
    after = states[:, :, levels::levels]
    return (logits, after) if codes.ndim == 4 else (logits[:, 0], after[:, 0])

  def creative_states(self, memory, codes, states=None, *, deterministic=True):
    """Returns f[B, X, d]: the states that creatives of POIs with codes i32[B, X, L] are read from.

    `creative_context` "item": after each POI as if it came first; "prefix": `states`, of a sequence that holds them.
    """
    if self.config.creative_context == "prefix":
      return states
    return self.decode(memory, codes[:, :, None], LIST, deterministic=deterministic)[1][:, :, 0]

  def init_cache(self, memory, num_prefixes, length):
    """Returns an empty cache: per layer {"key", "value"} of [1, B, U, length, kv_heads, dh].

    `length` counts BOI and the codes fed back. Layers are separate leaves because a loop that updates one array layer
    by layer copies it each time.
    """
    layers, batch, _, heads, width = memory.cross_keys.shape
    shape = (1, batch, num_prefixes, length, self.config.decoder_kv_heads or heads, width)
    zeros = lambda: jnp.zeros(shape, self.config.dtype)
    return tuple({"key": zeros(), "value": zeros()} for _ in range(layers))

  def decode_step(self, memory, cache, token, position, task):
    """Returns (cache, states [B, U, d], logits [B, U, V]) after token i32[B, U] at `position`; -1 at 0 is BOI.

    The logits predict the code at level position % L. The same numbers as `decode` (up to rounding).
    """
    levels = self.config.poi_levels
    embedded = self.poi_codes.at_level(token, (position - 1) % levels)
    cache, states = self.poi_decoder.step(embedded, cache, position, memory, task)
    head = self.poi_head[task, position % levels].astype(states.dtype)
    return cache, states, jnp.einsum("bud,dv->buv", states, head).astype(jnp.float32)

  def creative_logits(self, states, codes):
    """Returns f32[..., Lc, Vc] of POI states [..., d] and creative codes i32[..., Lc] (EGA Eq. 16); axes broadcast."""
    begin = self.creative_begin.astype(states.dtype)
    levels = range(self.config.creative_levels)
    if self.config.creative_chain:
      embedded = self.creative_codes(codes)
      chain = self.creative_module(states, [begin if level == 0 else embedded[..., level - 1, :] for level in levels])
    else:
      chain = self.creative_module(states, [begin for _ in levels])
    return jnp.einsum("...ld,ldv->...lv", chain, self.creative_head.astype(chain.dtype)).astype(jnp.float32)

  def creative_scores(self, states, codes, own, belief=None):
    """Returns f32[..., R]: log P(codes of creative r | states [..., d]) (EGA Eq. 16-17).

    -inf where own i32[..., R] is -1. codes i32[..., R, Lc]. belief: f32[..., R], log-odds of clicks with each creative,
    added with a learned weight.
    """
    logits = self.creative_logits(states[..., None, :], codes)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), codes[..., None], axis=-1)[..., 0]
    score = jnp.sum(log_p, axis=-1)
    score = score if belief is None else score + self.creative_belief * belief
    return jnp.where(own >= 0, score, -jnp.inf)

  def __call__(self, request, ids, catalog, poi_codes, creative_codes):
    """Returns every output once (initialisation): logits, creative logits and item prior."""
    memory = self.encode(request, ids, catalog)
    logits, states = self.decode(memory, poi_codes, LIST)
    prior = self.candidate_logits(memory, request, catalog, request.candidates)
    if self.config.item_prior and self.config.list_prior:
      prior = prior, self.candidate_relations(catalog, request.candidates)
    return logits, self.creative_logits(states, creative_codes), prior


