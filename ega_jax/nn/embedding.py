"""Embedding tables: semantic codes (one table per level) and ids of users, POIs and creatives."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ega_jax.nn.linear import partitioned


class CodeEmbedding(nn.Module):
  """Embeddings of codes, one table per level; an absent code (-1) is a learned vector, or 0 if not `learn_absent`."""

  levels: int
  vocabulary: int
  width: int
  dtype: Any = jnp.float32
  learn_absent: bool = False

  def setup(self):
    initializer = nn.initializers.normal(self.width**-0.5)
    shape = (self.levels, self.vocabulary, self.width)
    self.table = self.param("table", partitioned(initializer, (None, "vocab", "embed")), shape)
    if self.learn_absent:
      self.absent = self.param("absent", partitioned(initializer, (None, "embed")), (self.levels, self.width))

  def __call__(self, codes):
    """Returns f[..., levels, d] of codes i32[..., levels]; code -1 gives the level's absent vector."""
    return self.at_level(codes, jnp.arange(self.levels))

  def at_level(self, codes, level):
    """Returns f[..., d] of codes i32[...] that all belong to `level` (an integer, or integers [...])."""
    known = (codes >= 0)[..., None]
    rows = self.table[level, jnp.maximum(codes, 0)]
    return jnp.where(known, rows, self.absent[level] if self.learn_absent else 0.0).astype(self.dtype)


ROW_MULTIPLE = 512  # tables have a multiple of this many rows, so that every usual number of devices divides them


class IdEmbedding(nn.Module):
  """Embeddings of ids, sharded over the "table" axis; id -1 gives 0, so unseen ids add nothing."""

  size: int
  width: int
  scale: float = 0.02
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, ids):
    """Returns f[..., width] of ids i32[...]; 0 for those outside of 0..size - 1."""
    initializer = partitioned(nn.initializers.normal(self.scale), ("table", None))
    rows = -(-self.size // ROW_MULTIPLE) * ROW_MULTIPLE
    table = self.param("table", initializer, (rows, self.width))
    # An id beyond the table is as unknown as -1: a user who signed up after training, for one.
    known = (ids >= 0) & (ids < self.size)
    rows = table[jnp.clip(ids, 0, self.size - 1)]
    return jnp.where(known[..., None], rows, 0.0).astype(self.dtype)
