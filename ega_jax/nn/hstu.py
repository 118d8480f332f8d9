"""HSTU: hierarchical sequential transduction units (Zhai et al. 2024, "Actions speak louder than words")."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ega_jax.nn.linear import RMSNorm, partitioned


class HSTUBlock(nn.Module):
  """Returns x + W2 (norm(A V) * U) for x [B, T, d], where U, V, Q, K = silu(W1 norm(x)), A = silu(Q K^T + bias) / T.

  Pointwise attention: nothing is normalised over keys, so that how often something happened is kept. Causal; the bias
  is learned per distance and head. Rows that `mask` bool[B, T] leaves out are neither read nor changed.
  """

  width: int
  num_heads: int
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, mask, *, deterministic=True):
    """Returns f[B, T, d] of x f[B, T, d] and mask bool[B, T]; deterministic: False drops out, by the rng "dropout"."""
    length, heads = x.shape[1], (self.num_heads, self.width // self.num_heads)
    inward = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2))
    normed = RMSNorm(name="input_norm")(x).astype(self.dtype)
    parts = []
    for name in ("gate", "value", "query", "key"):
      kernel = self.param(name, partitioned(inward, ("embed", "heads", "kv")), (self.width, *heads))
      parts.append(nn.silu(jnp.einsum("btd,dhk->bthk", normed, kernel.astype(self.dtype))))
    gate, value, query, key = parts
    mixed = jnp.einsum("bhts,bshk->bthk", self._weights(query, key, mask, length), value)
    gated = RMSNorm(name="output_norm")(mixed.reshape(x.shape)).reshape(mixed.shape) * gate
    outward = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=(0, 1), out_axis=2)
    kernel = self.param("output", partitioned(outward, ("heads", "kv", "embed")), (*heads, self.width))
    out = jnp.einsum("bthk,hkd->btd", gated, kernel.astype(self.dtype))
    out = nn.Dropout(self.dropout, deterministic=deterministic)(out)
    return jnp.where(mask[..., None], x + out, x)

  def _weights(self, query, key, mask, length):
    """Returns f[B, heads, T, T]: silu(q k + bias) / T at earlier or equal, present positions; 0 elsewhere."""
    initializer = partitioned(nn.initializers.normal(0.02), (None, "heads"))
    table = self.param("distance", initializer, (length, self.num_heads))
    distance = jnp.arange(length)[:, None] - jnp.arange(length)[None]
    bias = jnp.moveaxis(table[jnp.maximum(distance, 0)], -1, 0).astype(self.dtype)
    scores = nn.silu(jnp.einsum("bthk,bshk->bhts", query, key) + bias) / length
    return jnp.where((distance >= 0) & mask[:, None, None, :], scores, 0.0)
