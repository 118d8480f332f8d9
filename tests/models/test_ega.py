"""The generator: one step at a time equals teacher forcing, nothing unknown leaks in, every method has its shape."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import oracles_models as oracle
from ega_jax.models import ega, ega_config
from ega_jax.models.ega_config import LIST, NEXT_VISITS
from ega_jax.nn.attention import write_rows

LEVELS, VOCABULARY, CREATIVE_LEVELS, ITEMS = 3, 7, 2, 4


@pytest.fixture(scope="module")
def setting():
  return _setting("events")


def _setting(cross_attention, kv_heads=1):
  rng = np.random.default_rng(0)
  catalog = oracle.catalog(rng)
  rows = oracle.request(rng, catalog)
  ids = oracle.semantic_ids(rng, catalog, LEVELS, VOCABULARY, CREATIVE_LEVELS)
  config = ega_config.tiny(
    num_pois=30, num_users=7, poi_levels=LEVELS, poi_vocabulary=VOCABULARY, creative_levels=CREATIVE_LEVELS,
    creative_vocabulary=VOCABULARY, max_items=ITEMS, num_layers=2, cross_attention=cross_attention,
    decoder_kv_heads=kv_heads,
  )
  module = ega.EGA(config)
  codes = ids.poi[rng.integers(0, 30, (rows.user.shape[0], ITEMS))]
  creative = ids.creative[rng.integers(0, 90, (rows.user.shape[0], ITEMS))]
  boxed = jax.eval_shape(module.init, jax.random.key(0), rows, ids, catalog, codes, creative)["params"]
  params = oracle.random_params(rng, boxed)

  @jax.jit
  def encode(rows):
    return module.apply({"params": params}, rows, ids, catalog, method="encode")

  return dict(module=module, params=params, rows=rows, ids=ids, catalog=catalog, codes=codes, creative=creative,
              encode=encode, boxed=boxed)


def _apply(s, method, *args, **kwargs):
  traced = {name: value for name, value in kwargs.items() if name in ("is_ad", "belief")}
  static = {name: value for name, value in kwargs.items() if name not in ("is_ad", "belief")}

  def run(params, args, traced):
    return s["module"].apply({"params": params}, *args, method=method, **traced, **static)

  if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((s["params"], args))):
    return run(s["params"], args, traced)
  return jax.jit(run)(s["params"], args, traced)


@pytest.mark.parametrize("task,cross_attention,kv_heads", [(NEXT_VISITS, "events", 1), (LIST, "tokens", 2)])
def test_decode_equals_a_chain_of_steps(task, cross_attention, kv_heads):
  setting = _setting(cross_attention, kv_heads)
  memory, codes = setting["encode"](setting["rows"]), setting["codes"]
  logits, states = jax.jit(lambda m, c: _apply(setting, "decode", m, c, task))(memory, codes)
  length = ITEMS * LEVELS + 1
  tokens = jnp.concatenate([jnp.full((len(codes), 1), -1), codes.reshape(len(codes), -1)], axis=1)

  @jax.jit
  def chain(memory, tokens):
    def step(cache, position):
      token = tokens[:, position][:, None].repeat(3, axis=1)
      rows, state, logit = _apply(setting, "decode_step", memory, cache, token, position, task)
      return write_rows(cache, rows, position), (state, logit)

    cache = _apply(setting, "init_cache", memory, 3, length)
    assert [layer["key"].shape for layer in cache] == 2 * [(1, len(codes), 3, length, kv_heads, 16)]
    return jax.lax.scan(step, cache, jnp.arange(length))[1]

  step_states, step_logits = chain(memory, tokens)
  want = np.moveaxis(np.asarray(step_logits), 0, 2)[:, :, :-1].reshape(len(codes), 3, ITEMS, LEVELS, VOCABULARY)
  for prefix in range(3):
    np.testing.assert_allclose(logits, want[:, prefix], atol=1e-5, rtol=1e-5)
  want = np.moveaxis(np.asarray(step_states), 0, 2)[:, 0, LEVELS::LEVELS]
  np.testing.assert_allclose(states, want, atol=1e-5, rtol=1e-5)
  assert np.std(np.asarray(logits)[..., 0]) > 1e-3


def test_decode_is_causal_and_several_sequences_equal_one_at_a_time(setting):
  memory, codes = setting["encode"](setting["rows"]), setting["codes"]
  other = codes.copy()
  other[:, -1, 1] = (other[:, -1, 1] + 1) % VOCABULARY
  both = np.stack([codes, other], axis=1)
  logits, states = _apply(setting, "decode", memory, both, LIST)
  for u, one in enumerate((codes, other)):
    want_logits, want_states = _apply(setting, "decode", memory, one, LIST)
    np.testing.assert_allclose(logits[:, u], want_logits, atol=1e-5)
    np.testing.assert_allclose(states[:, u], want_states, atol=1e-5)
  flat = np.asarray(logits).reshape(len(codes), 2, ITEMS * LEVELS, -1)
  np.testing.assert_allclose(flat[:, 0, :-1], flat[:, 1, :-1], atol=1e-6)
  assert np.abs(flat[:, 0, -1] - flat[:, 1, -1]).max() > 1e-4


def test_padding_and_clicks_that_are_hidden_change_nothing(setting):
  rows = setting["rows"]
  clicks = rows.history_action > 1
  scrambled = dataclasses.replace(
    rows,
    history_poi=np.where(clicks, (rows.history_poi + 1) % 30, rows.history_poi),
    history_creative=np.where(clicks, 5, rows.history_creative),
    history_age=np.where(rows.history_poi < 0, 3.0, rows.history_age),
    history_hour=np.where(rows.history_poi < 0, 7, rows.history_hour),
  )
  encode = jax.jit(lambda rows: _apply(setting, "encode", rows, setting["ids"], setting["catalog"], visits_only=True))
  for name in ("summary", "states"):
    got, want = (np.asarray(getattr(encode(r), name)) for r in (scrambled, rows))
    mask = np.asarray(encode(rows).mask)
    np.testing.assert_allclose(got if name == "summary" else got[mask], want if name == "summary" else want[mask],
                               atol=1e-6)
  assert np.abs(setting["encode"](scrambled).summary - setting["encode"](rows).summary).max() > 1e-3


def test_unknown_user_and_hour_are_finite_and_bids_are_not_read(setting):
  rows = setting["rows"]
  unknown = dataclasses.replace(rows, user=np.full_like(rows.user, -1), hour=np.full_like(rows.hour, -1))
  newcomer = dataclasses.replace(unknown, user=np.full_like(rows.user, 10**6))
  assert np.isfinite(setting["encode"](unknown).summary).all()
  np.testing.assert_array_equal(setting["encode"](unknown).summary, setting["encode"](newcomer).summary)
  priced = dataclasses.replace(rows, bid=rows.bid * 9)
  np.testing.assert_array_equal(setting["encode"](rows).states, setting["encode"](priced).states)


def test_item_prior_is_equivariant_to_the_order_of_candidates(setting):
  rows, memory = setting["rows"], setting["encode"](setting["rows"])
  order = np.random.default_rng(3).permutation(rows.candidates.shape[1])

  @jax.jit
  def prior(candidates, is_ad):
    return _apply(setting, "candidate_logits", memory, rows, setting["catalog"], candidates, is_ad=is_ad)

  got = np.asarray(prior(rows.candidates, rows.is_ad))
  np.testing.assert_allclose(prior(rows.candidates[:, order], rows.is_ad[:, order]), got[:, order], atol=1e-6)
  np.testing.assert_array_equal(got[rows.candidates < 0], 0)
  assert got.std() > 1e-3


def test_creative_chain_sees_earlier_codes_only(setting):
  memory, creative = setting["encode"](setting["rows"]), setting["creative"]
  _, states = _apply(setting, "decode", memory, setting["codes"], LIST)
  changed = creative.copy()
  changed[..., 0] = (changed[..., 0] + 1) % VOCABULARY
  first, second = (np.asarray(_apply(setting, "creative_logits", states, c)) for c in (creative, changed))
  assert first.shape == (*creative.shape, VOCABULARY)
  np.testing.assert_allclose(first[..., 0, :], second[..., 0, :], atol=1e-6)
  assert np.abs(first[..., 1, :] - second[..., 1, :]).max() > 1e-4


def test_every_parameter_has_logical_names_and_a_gradient(setting):
  boxed = jax.tree.leaves(setting["boxed"], is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
  assert all(isinstance(leaf, nn.LogicallyPartitioned) and len(leaf.names) == leaf.value.ndim for leaf in boxed)
  names = {name for leaf in boxed for name in leaf.names}
  assert names <= {"embed", "mlp", "heads", "kv", "vocab", "layers", "table", None}

  def total(params):
    s = {**setting, "params": params}
    memory = _apply(s, "encode", s["rows"], s["ids"], s["catalog"])
    logits = [_apply(s, "decode", memory, s["codes"], task) for task in (0, 1)]
    belief = jnp.linspace(-3.0, 0.0, s["rows"].candidates.shape[1]) * jnp.ones(s["rows"].candidates.shape)
    prior = _apply(
      s, "candidate_logits", memory, s["rows"], s["catalog"], s["rows"].candidates, is_ad=s["rows"].is_ad, belief=belief
    )
    relation, decay, ad_slot = _apply(s, "candidate_relations", s["catalog"], s["rows"].candidates)
    seeing = jnp.einsum("bji,k->bik", relation, decay) + ad_slot
    own = s["creative"][:, :, None]
    creative = _apply(s, "creative_scores", logits[1][1], own, jnp.zeros(own.shape[:-1]), jnp.ones(own.shape[:-1]))
    return sum(jnp.sum(jnp.sin(x)) for x in (logits[0][0], logits[1][0], prior, seeing, creative))

  gradients = jax.jit(jax.grad(total))(setting["params"])
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
    name = jax.tree_util.keystr(path)
    assert (np.abs(gradient).max() > 0) != name.endswith("['visit_weights']"), name  # those are tuned on windows


def test_dropout_needs_its_rng_and_changes_the_memory(setting):
  def train(key):
    return setting["module"].apply(
      {"params": setting["params"]}, setting["rows"], setting["ids"], setting["catalog"], deterministic=False,
      method="encode", rngs={"dropout": key},
    ).summary

  first, second = (jax.jit(train)(jax.random.key(i)) for i in (0, 1))
  assert np.abs(first - second).max() > 1e-4


def test_remat_marks_every_block_and_changes_no_number(setting):
  def decoded(remat):
    module = ega.EGA(dataclasses.replace(setting["module"].config, remat=remat))

    def run(params):
      call = lambda *args, method: module.apply(
        {"params": params}, *args, method=method, deterministic=False, rngs={"dropout": jax.random.key(1)}
      )
      memory = call(setting["rows"], setting["ids"], setting["catalog"], method="encode")
      return call(memory, setting["codes"], LIST, method="decode")[0]

    return run

  marked = [str(jax.make_jaxpr(decoded(remat))(setting["params"])).count("remat2[") for remat in (False, True)]
  assert marked == [0, 2 * setting["module"].config.num_layers]
  plain, recomputed = (jax.jit(decoded(remat))(setting["params"]) for remat in (False, True))
  np.testing.assert_allclose(plain, recomputed, rtol=1e-4, atol=1e-4)


def test_unknown_cross_attention_is_refused():
  with pytest.raises(ValueError, match="cross_attention.*'events', 'tokens'"):
    ega_config.small(num_pois=3, num_users=3, cross_attention="none")
