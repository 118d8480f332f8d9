"""The generator's decoder over POI codes (EGA Eq. 15), and the request as it sees it."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ega_jax.models.ega_config import NUM_TASKS, EGAConfig
from ega_jax.nn.linear import RMSNorm, partitioned
from ega_jax.nn.transformer import DecoderBlock
from ega_jax.types import record


@record
class Memory:
  """A request as the decoder sees it."""

  states: Any  # f[B, S, d]
  mask: Any  # bool[B, S]
  cross_keys: Any  # f[layers, B, S, heads, dh]
  cross_values: Any  # f[layers, B, S, heads, dh]
  summary: Any  # f[B, d]


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
    """Returns states [B, U, 1 + J, d]: after BOI and after each of the embedded codes [B, U, J, d].

    Args: memory: Memory of the B requests; task: NEXT_VISITS or LIST; deterministic: False drops out.
    """
    begin = jnp.broadcast_to(self.begin[task].astype(embedded.dtype), (*embedded.shape[:2], 1, embedded.shape[-1]))
    x = jnp.concatenate([begin, embedded], axis=2)
    x = x + self.positions[: x.shape[2]].astype(x.dtype)
    run = lambda layer, *arrays: layer(*arrays, deterministic=deterministic)
    run = nn.remat(run) if self.config.remat else run
    for i, layer in enumerate(self.layers):
      x = run(layer, x, memory.cross_keys[i], memory.cross_values[i], memory.mask)
    return self.norm(x)

  def step(self, embedded, cache, position, memory, task):
    """Returns (rows, states [B, U, d]) after the code embedded [B, U, d] at `position`; BOI where position is 0.

    rows: what `attention.write_rows` adds to the cache, which is that of `EGA.init_cache`.
    """
    begin = self.begin[task].astype(embedded.dtype)
    x = jnp.where(jnp.asarray(position) == 0, begin, embedded) + self.positions[position].astype(embedded.dtype)
    rows = []
    for i, layer in enumerate(self.layers):
      keys, values = memory.cross_keys[i], memory.cross_values[i]
      new, x = layer.step(x, cache[i], position, keys, values, memory.mask)
      rows.append(new)
    return tuple(rows), self.norm(x)
