"""Multi-head attention: one function behind a name, and the projections around it.

Every model reaches attention through `attention`, so that another kernel is one entry of KERNELS.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ega_jax.nn.linear import partitioned

KERNELS = {}


def reference_attention(query, key, value, *, mask=None, bias=None):
  """Returns softmax(query key^T / sqrt(dh) + bias) value, with 0 for a query that may attend to nothing.

  Args: query [..., T, heads, dh], key and value [..., S, heads, dh]; mask bool and bias f32, both
  broadcastable to [..., heads, T, S].
  Returns: [..., T, heads, dh]. Fewer key heads than query heads are shared by groups of query heads.
  """
  if key.shape[-2] != query.shape[-2]:
    key, value = (jnp.repeat(x, query.shape[-2] // x.shape[-2], axis=-2) for x in (key, value))
  scores = jnp.einsum("...thd,...shd->...hts", query, key).astype(jnp.float32) * query.shape[-1] ** -0.5
  if bias is not None:
    scores = scores + bias
  if mask is not None:
    scores = jnp.where(mask, scores, -1e30)
  # The shift cancels. A gradient through the maximum compares it with scores that a compiler may have computed anew and
  # rounded otherwise: a maximum that no score equals has the gradient 0 / 0.
  best = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.exp(scores - best)
  if mask is not None:
    weights = jnp.where(mask, weights, 0.0)
  # Dividing the result instead of the weights touches dh numbers rather than S.
  total = jnp.moveaxis(jnp.sum(weights, axis=-1), -1, -2)[..., None]
  mixed = jnp.einsum("...hts,...shd->...thd", weights.astype(value.dtype), value)
  return (mixed / jnp.maximum(total, 1e-9)).astype(query.dtype)


KERNELS["reference"] = reference_attention


def attention(query, key, value, *, mask=None, bias=None, kernel="reference"):
  """Returns attention by the named kernel; arguments and shapes as in `reference_attention`.

  Raises: ValueError for a kernel that is not in KERNELS.
  """
  if kernel not in KERNELS:
    raise ValueError(f"attention kernel {kernel!r} is unknown; allowed: {sorted(KERNELS)}")
  return KERNELS[kernel](query, key, value, mask=mask, bias=bias)


def cached_attention(query, keys, values, new_key, new_value, position):
  """Returns one position's attention over itself and a cache of the positions before it.

  The new key and value come apart from the cache, which is read as it was: a cache that is written first and read then
  is copied by XLA on CPUs, several times a layer.

  Args: query [B, U, heads, dh]; keys, values [B, U, T, kv_heads, dh], of which the first `position` are read; new_key,
    new_value [B, U, kv_heads, dh].
  Returns: [B, U, heads, dh]. Queries are laid out block-diagonally over the key heads, so that a prefix is one matrix
  product [heads, kv_heads * dh] x [kv_heads * dh, T] over the cache as it lies in memory: on CPUs twice as fast as a
  product per head, which would transpose the cache, in spite of the zeros.
  """
  batch, lists, length, kv_heads, width = keys.shape
  heads = query.shape[2]
  own = jnp.repeat(jnp.eye(kv_heads, dtype=query.dtype), heads // kv_heads, axis=0)
  blocks = (query[:, :, :, None] * own[:, :, None]).reshape(batch, lists, heads, kv_heads * width)
  flat = lambda x: x.reshape(*x.shape[:-2], kv_heads * width)
  score = lambda terms, key: jnp.einsum(terms, blocks, flat(key)).astype(jnp.float32) * width**-0.5
  scores = jnp.where(jnp.arange(length) < position, score("buhx,butx->buht", keys), -1e30)
  mine = score("buhx,bux->buh", new_key)
  best = jnp.maximum(jnp.max(scores, axis=-1), mine)
  weights, own_weight = jnp.exp(scores - best[..., None]), jnp.exp(mine - best)
  mixed = jnp.einsum("buht,butx->buhx", weights.astype(values.dtype), flat(values))
  mixed = mixed + own_weight[..., None].astype(values.dtype) * flat(new_value)[:, :, None]
  mixed = jnp.sum(mixed.reshape(batch, lists, heads, kv_heads, width) * own[:, :, None], axis=3)
  return mixed / (jnp.sum(weights, axis=-1) + own_weight)[..., None].astype(values.dtype)


def write_rows(cache, rows, position):
  """Returns the cache, leaves [1, B, U, T, kv_heads, dh], with rows [B, U, kv_heads, dh] at `position`."""

  def one(leaf, row):
    return jax.lax.dynamic_update_slice_in_dim(leaf, row[None, :, :, None].astype(leaf.dtype), position, 3)

  return jax.tree.map(one, cache, rows)


class MultiHeadAttention(nn.Module):
  """Projections to heads and back; `attend` takes keys and values that were projected earlier."""

  width: int
  num_heads: int
  dtype: Any = jnp.float32
  kernel: str = "reference"
  kv_heads: int = 0  # heads of keys and values, shared by groups of query heads; 0: as many as num_heads

  def setup(self):
    if self.width % self.num_heads:
      raise ValueError(f"width {self.width} must be a multiple of num_heads {self.num_heads}")
    kv_heads = self.kv_heads or self.num_heads
    if self.num_heads % kv_heads:
      raise ValueError(f"num_heads {self.num_heads} must be a multiple of kv_heads {kv_heads}")
    width = self.width // self.num_heads
    inward = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2))
    outward = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=(0, 1), out_axis=2)
    # Shared heads are too few to be split over devices.
    names = ("embed", "heads" if kv_heads == self.num_heads else None, "kv")
    self.query_kernel = self.param(
      "query", partitioned(inward, ("embed", "heads", "kv")), (self.width, self.num_heads, width)
    )
    self.key_kernel = self.param("key", partitioned(inward, names), (self.width, kv_heads, width))
    self.value_kernel = self.param("value", partitioned(inward, names), (self.width, kv_heads, width))
    self.output_kernel = self.param(
      "output", partitioned(outward, ("heads", "kv", "embed")), (self.num_heads, width, self.width)
    )

  def _project(self, x, kernel):
    return jnp.einsum("...d,dhk->...hk", x.astype(self.dtype), kernel.astype(self.dtype))

  def project_query(self, x):
    """Returns queries [..., heads, dh] of x [..., d]."""
    return self._project(x, self.query_kernel)

  def project_key_value(self, x):
    """Returns (keys, values), each [..., heads, dh], of x [..., d]."""
    return self._project(x, self.key_kernel), self._project(x, self.value_kernel)

  def project_output(self, y):
    """Returns [..., d] of mixed heads y [..., heads, dh]."""
    return jnp.einsum("...hk,hkd->...d", y, self.output_kernel.astype(self.dtype))

  def attend(self, x, keys, values, *, mask=None, bias=None):
    """Returns [..., T, d]: x [..., T, d] attending to projected keys and values [..., S, heads, dh]."""
    mixed = attention(self.project_query(x), keys, values, mask=mask, bias=bias, kernel=self.kernel)
    return self.project_output(mixed)

  def __call__(self, x, context=None, *, mask=None, bias=None):
    """Returns [..., T, d]: x attending to `context` [..., S, d], or to itself."""
    keys, values = self.project_key_value(x if context is None else context)
    return self.attend(x, keys, values, mask=mask, bias=bias)
