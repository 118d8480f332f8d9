"""The creative module: DeepSeek-V3's multi-token prediction, chained over the codes of one creative (EGA Eq. 16)."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ega_jax.nn.attention import MultiHeadAttention
from ega_jax.nn.linear import Dense, FeedForward, RMSNorm


class MultiTokenModule(nn.Module):
  """Returns states [..., Lc, d], one per creative code: EGA Eq. 16.

  State l = Block(W [RMSNorm(state l-1) ; RMSNorm(embedding of code l-1)]), where state -1 is the POI decoder's state
  and code -1 is BOC. One W and one Block serve every level (our decision); the block attends over the chain so far.
  """

  width: int
  num_heads: int
  mlp_width: int
  dtype: Any = jnp.float32

  def setup(self):
    self.state_norm, self.embedding_norm = RMSNorm(), RMSNorm()
    self.merge = Dense(self.width, names=("mlp", "embed"), use_bias=False, dtype=self.dtype)
    self.attention = MultiHeadAttention(self.width, self.num_heads, self.dtype)
    self.mlp = FeedForward(self.mlp_width, self.dtype)
    self.attention_norm, self.mlp_norm = RMSNorm(), RMSNorm()

  def __call__(self, state, embeddings):
    """Returns [..., Lc, d] of state [..., d] and the inputs of every level, a list of [..., d]: BOC, then the codes but
    the last. Leading axes broadcast: what several creatives share is computed once.
    """
    states, chain = [], []
    for embedding in embeddings:
      state, embedding = jnp.broadcast_arrays(self.state_norm(state), self.embedding_norm(embedding))
      merged = self.merge(jnp.concatenate([state, embedding], axis=-1))
      chain = [jnp.broadcast_to(earlier, merged.shape) for earlier in chain] + [self.attention_norm(merged)]
      mixed = self.attention(chain[-1][..., None, :], jnp.stack(chain, axis=-2))[..., 0, :]
      state = merged + mixed
      state = state + self.mlp(self.mlp_norm(state))
      states.append(state)
    return jnp.stack([jnp.broadcast_to(earlier, state.shape) for earlier in states], axis=-2)
