"""Pre-norm transformer blocks: encoder, and a decoder with cross-attention and a key-value cache."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ega_jax.nn.attention import MultiHeadAttention, cached_attention
from ega_jax.nn.linear import FeedForward, RMSNorm, constrain


class EncoderBlock(nn.Module):
  """Returns x [..., T, d] after self-attention and feed-forward, each added to its normalised input."""

  width: int
  num_heads: int
  mlp_width: int
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, mask=None, bias=None, deterministic=True):
    """Returns f[..., T, d] of x f[..., T, d].

    Args: mask bool (may attend), bias f32 (of scores), broadcastable to [..., heads, T, T]; deterministic: False drops
      out, by the rng "dropout".
    """
    drop = nn.Dropout(self.dropout, deterministic=deterministic)
    mixed = MultiHeadAttention(self.width, self.num_heads, self.dtype, name="attention")(
      RMSNorm(name="attention_norm")(x), mask=mask, bias=bias
    )
    x = constrain(x + drop(mixed))
    fed = FeedForward(self.mlp_width, self.dtype, name="mlp")(RMSNorm(name="mlp_norm")(x))
    return constrain(x + drop(fed))


class DecoderBlock(nn.Module):
  """Causal self-attention, cross-attention to projected memory, feed-forward; whole sequences or one step.

  `__call__` and `step` are the same map: a chain of steps gives what the whole sequence gives.
  """

  width: int
  num_heads: int
  mlp_width: int
  dropout: float = 0.0
  dtype: Any = jnp.float32
  kv_heads: int = 0  # of self-attention: what a cache holds

  def setup(self):
    self.self_attention = MultiHeadAttention(self.width, self.num_heads, self.dtype, kv_heads=self.kv_heads)
    self.cross_attention = MultiHeadAttention(self.width, self.num_heads, self.dtype)
    self.mlp = FeedForward(self.mlp_width, self.dtype)
    self.self_norm, self.cross_norm, self.mlp_norm = RMSNorm(), RMSNorm(), RMSNorm()
    self.drop = nn.Dropout(self.dropout)

  def project_memory(self, states):
    """Returns the cross-attention's (keys, values) [B, S, heads, dh] of memory states [B, S, d]."""
    return self.cross_attention.project_key_value(states)

  def _cross_and_feed(self, x, keys, values, memory_mask, deterministic):
    batch, lists, length, width = x.shape
    flat = self.cross_norm(x).reshape(batch, lists * length, width)
    mixed = self.cross_attention.attend(flat, keys, values, mask=memory_mask[:, None, None, :])
    x = x + self.drop(mixed.reshape(x.shape), deterministic=deterministic)
    return x + self.drop(self.mlp(self.mlp_norm(x)), deterministic=deterministic)

  def __call__(self, x, keys, values, memory_mask, *, deterministic=True):
    """Returns [B, U, T, d] for U sequences x [B, U, T, d] that share a request's memory [B, S].

    Args: keys, values [B, S, heads, dh] of `project_memory`; memory_mask bool[B, S]; deterministic: False drops out.
    """
    causal = jnp.tril(jnp.ones((x.shape[2], x.shape[2]), bool))
    mixed = self.self_attention(self.self_norm(x), mask=causal)
    x = x + self.drop(mixed, deterministic=deterministic)
    return constrain(self._cross_and_feed(x, keys, values, memory_mask, deterministic))

  def step(self, x, cache, position, keys, values, memory_mask):
    """Returns (rows, [B, U, d]): x [B, U, d] at `position`; cache {"key", "value"} [1, B, U, T, kv_heads, dh] of the
    positions before it, and rows {"key", "value"} [B, U, kv_heads, dh] of this one, for `attention.write_rows`. keys,
    values, memory_mask: as in a call.
    """
    normed = self.self_norm(x)
    new = self.self_attention.project_key_value(normed)
    query = self.self_attention.project_query(normed)
    mixed = cached_attention(query, cache["key"][0], cache["value"][0], *new, position)
    mixed, *new = jax.lax.optimization_barrier((mixed, *new))  # the cache is written in place: after it was read
    x = x + self.self_attention.project_output(mixed)
    x = self._cross_and_feed(x[:, :, None], keys, values, memory_mask, True)[:, :, 0]
    return dict(zip(("key", "value"), new, strict=True)), x
