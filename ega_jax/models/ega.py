"""The generator: history encoder, POI decoder, creative module and item prior (EGA Eq. 13-17).

One Linen module whose methods are the steps of generation. Ours is the item prior over the request's candidates, beside
the decoder's code logits.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ega_jax.models.ega_config import LIST, NUM_TASKS, EGAConfig
from ega_jax.models.encoder import Encoder, HistoryEmbedder, hide_clicks, recent_events
from ega_jax.models.item_prior import ItemPrior
from ega_jax.models.list_prior import ListContextPrior
from ega_jax.models.poi_decoder import Memory, PoiDecoder
from ega_jax.nn.embedding import CodeEmbedding
from ega_jax.nn.linear import partitioned
from ega_jax.nn.multi_token import MultiTokenModule


class EGA(nn.Module):
  """The generator. Its methods are called through `module.apply({"params": p}, ..., method="encode")`.

  Arguments of its methods: request, ids, catalog: of `ega_jax.types`; memory: what `encode` returns; task: NEXT_VISITS
  or LIST; deterministic: False drops out, by the rng "dropout".
  """

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
    """Returns f32[B, C]: the item prior g of candidates i32[B, C], POI ids; zeros if config.item_prior is off.

    is_ad: bool[B, C], None: no ads. belief: f32[B, C], the log click probability of each candidate alone, added with a
    learned weight; None: not known.
    """
    if not self.config.item_prior:
      return jnp.zeros(candidates.shape, jnp.float32)
    request, catalog = jax.tree.map(jnp.asarray, (request, catalog))
    return self.item_prior(memory.summary, request, catalog, candidates, is_ad, task, belief)

  def candidate_relations(self, catalog, candidates):
    """Returns (relation f32[B, C, C], decay f32[K], ad_slot f32[K]) of candidates i32[B, C] (`ListContextPrior`)."""
    return self.list_prior(jax.tree.map(jnp.asarray, catalog), candidates)

  def decode(self, memory, codes, task, *, deterministic=True):
    """Returns (logits f32[B, T, L, V], states [B, T, d]), teacher-forced on POI codes i32[B, T, L].

    Logits t, l predict code l of POI t from everything before it; state t comes after the last code of POI t. Codes
    [B, U, T, L] decode U sequences of each request and give [B, U, T, ..].
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
    """Returns (rows, states [B, U, d], logits [B, U, V]) after token i32[B, U] at `position`; -1 at 0 is BOI.

    The cache holds the positions before; `attention.write_rows` adds the rows of this one.
    The logits predict the code at level position % L. The same numbers as `decode` (up to rounding).
    """
    levels = self.config.poi_levels
    embedded = self.poi_codes.at_level(token, (position - 1) % levels)
    rows, states = self.poi_decoder.step(embedded, cache, position, memory, task)
    head = self.poi_head[task, position % levels].astype(states.dtype)
    return rows, states, jnp.einsum("bud,dv->buv", states, head).astype(jnp.float32)

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
    """Returns every output once (initialisation): logits, creative logits and item prior.

    Args: poi_codes i32[B, T, L]; creative_codes i32[B, T, Lc].
    """
    memory = self.encode(request, ids, catalog)
    logits, states = self.decode(memory, poi_codes, LIST)
    prior = self.candidate_logits(memory, request, catalog, request.candidates)
    if self.config.item_prior and self.config.list_prior:
      prior = prior, self.candidate_relations(catalog, request.candidates)
    return logits, self.creative_logits(states, creative_codes), prior
