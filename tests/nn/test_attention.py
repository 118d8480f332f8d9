"""Attention equals loops; blocks are causal, masked and permutation equivariant where they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import oracles_models as oracle
from ega_jax.nn import attention, embedding, hstu, linear, multi_token, transformer


def _build(module, *args, **kwargs):
  """Returns a jitted function of the module's arguments, with random parameters."""
  boxed = jax.eval_shape(lambda key, *a: module.init(key, *a, **kwargs), jax.random.key(0), *args)["params"]
  params = oracle.random_params(np.random.default_rng(0), boxed)
  return params, jax.jit(lambda *a: module.apply({"params": params}, *a, **kwargs))


def test_attention_equals_a_loop_and_gives_zero_where_nothing_is_seen():
  rng = np.random.default_rng(0)
  query, key, value = (rng.normal(size=(2, n, 3, 4)).astype(np.float32) for n in (5, 6, 6))
  mask, bias = rng.random((2, 1, 5, 6)) < 0.6, rng.normal(size=(3, 5, 6)).astype(np.float32)
  mask[0, 0, 2] = False
  got = attention.attention(query, key, value, mask=mask, bias=bias)
  want = np.zeros_like(query)
  for b, t, h in np.ndindex(2, 5, 3):
    seen = np.flatnonzero(mask[b, 0, t])
    weights = np.exp([query[b, t, h] @ key[b, s, h] / 2 + bias[h, t, s] for s in seen])
    want[b, t, h] = sum((w * value[b, s, h] for w, s in zip(weights, seen, strict=True)), np.zeros(4))
    want[b, t, h] /= max(weights.sum(), 1e-9)
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert (want[0, 2] == 0).all()
  gradient = jax.grad(lambda v: attention.attention(query, key, v, mask=mask).sum())(jnp.asarray(value))
  assert np.isfinite(gradient).all()


def test_attention_survives_extreme_scores():
  query = np.full((1, 2, 1, 4), 1e4, np.float32)
  out = attention.attention(query, query, query)
  np.testing.assert_allclose(out, query, rtol=1e-5)


def test_unknown_kernel_names_the_allowed_ones():
  with pytest.raises(ValueError, match="'flash'.*reference"):
    attention.attention(None, None, None, kernel="flash")


def test_width_must_be_a_multiple_of_heads():
  with pytest.raises(ValueError, match="width 10.*num_heads 4"):
    attention.MultiHeadAttention(10, 4).init(jax.random.key(0), jnp.zeros((1, 2, 10)))


def test_encoder_block_is_permutation_equivariant_and_blind_to_masked_entries():
  x = np.random.default_rng(1).normal(size=(2, 6, 8)).astype(np.float32)
  mask = np.ones((2, 1, 1, 6), bool)
  mask[..., -1] = False
  _, apply = _build(transformer.EncoderBlock(8, 2, 16), x, mask=jnp.asarray(mask))
  order = np.array([3, 1, 4, 0, 2, 5])
  np.testing.assert_allclose(apply(x[:, order]), apply(x)[:, order], atol=1e-5)
  other = x.copy()
  other[:, -1] += 5
  np.testing.assert_allclose(apply(other)[:, :-1], apply(x)[:, :-1], atol=1e-6)


def test_multi_token_module_is_a_chain():
  rng = np.random.default_rng(2)
  state, codes = rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=(3, 4, 8)).astype(np.float32)
  levels = lambda codes: list(codes.transpose(1, 0, 2))
  _, apply = _build(multi_token.MultiTokenModule(8, 2, 16), state, levels(codes))
  base = apply(state, levels(codes))
  for level in range(4):
    other = codes.copy()
    other[:, level] += 1
    change = np.abs(apply(state, levels(other)) - base).max(axis=(0, 2))
    assert (change[:level] < 1e-6).all() and (change[level:] > 1e-4).all()
  assert np.abs(apply(state + 1, levels(codes)) - base).max(axis=(0, 2)).min() > 1e-4
  several = np.stack([codes, codes[::-1]], axis=1)  # two chains of each state, their first level shared
  both = apply(state[:, None], [codes[:, None, 0]] + [several[:, :, level] for level in range(1, 4)])
  np.testing.assert_allclose(both[:, 0], base, atol=1e-5)


def test_hstu_is_causal_and_ignores_padding():
  x = np.random.default_rng(3).normal(size=(2, 5, 8)).astype(np.float32)
  mask = np.array([[False, True, True, True, True], [True] * 5])
  _, apply = _build(hstu.HSTUBlock(8, 2), x, jnp.asarray(mask))
  base, last, pad = apply(x, mask), x.copy(), x.copy()
  last[:, -1] += 1
  pad[0, 0] += 1
  np.testing.assert_allclose(apply(last, mask)[:, :-1], base[:, :-1], atol=1e-6)
  np.testing.assert_allclose(apply(pad, mask)[0, 1:], base[0, 1:], atol=1e-6)
  np.testing.assert_array_equal(base[0, 0], x[0, 0])
  assert np.abs(apply(last, mask)[:, -1] - base[:, -1]).max() > 1e-3


def test_code_embedding_has_a_table_per_level_and_absent_codes():
  codes = np.array([[0, 0], [1, -1]])
  for learned in (False, True):
    params, apply = _build(embedding.CodeEmbedding(2, 3, 4, learn_absent=learned), codes)
    got = apply(codes)
    np.testing.assert_array_equal(got[0], params["table"][:, 0])
    np.testing.assert_array_equal(got[1, 0], params["table"][0, 1])
    np.testing.assert_array_equal(got[1, 1], params["absent"][1] if learned else np.zeros(4))


def test_id_embedding_gives_zero_for_unknown_ids():
  ids = np.array([0, 2, -1, 3, 10**6])
  params, apply = _build(embedding.IdEmbedding(3, 4), ids)
  got = np.asarray(apply(ids))
  np.testing.assert_array_equal(got[:2], params["table"][np.array([0, 2])])
  np.testing.assert_array_equal(got[2:], 0)


def test_rms_norm_and_feed_forward_equal_their_formulas():
  x = np.random.default_rng(4).normal(size=(3, 4)).astype(np.float32)
  params, apply = _build(linear.RMSNorm(), x)
  np.testing.assert_allclose(apply(x), x / np.sqrt((x**2).mean(-1, keepdims=True)) * params["scale"], rtol=1e-5)
  params, apply = _build(linear.FeedForward(6), x)
  hidden = np.maximum(x @ params["up"]["kernel"] + params["up"]["bias"], 0) ** 2
  np.testing.assert_allclose(apply(x), hidden @ params["down"]["kernel"] + params["down"]["bias"], rtol=1e-4, atol=1e-5)


def test_bfloat16_compute_keeps_float32_parameters():
  module = linear.FeedForward(6, jnp.bfloat16)
  variables = nn.unbox(module.init(jax.random.key(0), jnp.zeros((2, 4))))
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
  assert module.apply(variables, jnp.zeros((2, 4))).dtype == jnp.bfloat16
