"""Linear maps, normalisation and feed-forward parts with logical axis names (flax.linen)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def partitioned(initializer, names):
  """Returns `initializer` whose parameters carry the logical axis `names`."""
  return nn.with_logical_partitioning(initializer, names)


def constrain(x):
  """Returns activations `x` [B, ..., T, d] tied to the logical axes ("batch", None.., "length", "embed")."""
  middle = (None,) * (x.ndim - 3)
  return nn.with_logical_constraint(x, ("batch", *middle, "length", "embed")) if x.ndim >= 3 else x


class Dense(nn.Module):
  """Returns x @ kernel + bias for x [..., in]; `names` are the kernel's logical axes."""

  features: int
  names: tuple = ("embed", "mlp")
  use_bias: bool = True
  dtype: Any = jnp.float32
  kernel_init: Any = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x):
    """Returns f[..., features] of x f[..., in], in `dtype`."""
    kernel = self.param("kernel", partitioned(self.kernel_init, self.names), (x.shape[-1], self.features))
    y = jnp.einsum("...i,io->...o", x.astype(self.dtype), kernel.astype(self.dtype))
    if self.use_bias:
      bias = self.param("bias", partitioned(nn.initializers.zeros, self.names[1:]), (self.features,))
      y = y + bias.astype(self.dtype)
    return y


class RMSNorm(nn.Module):
  """Returns x / rms(x) * scale over the last axis, computed in float32."""

  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x):
    """Returns f[..., d] of x f[..., d], in the dtype of x."""
    scale = self.param("scale", partitioned(nn.initializers.ones, ("embed",)), (x.shape[-1],))
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.epsilon)
    return (wide * scale).astype(x.dtype)


class FeedForward(nn.Module):
  """Returns W2 relu(W1 x)^2, the squared-ReLU feed-forward map: no transcendental, so it is cheap on CPUs."""

  hidden: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """Returns f[..., d] of x f[..., d]."""
    y = jnp.square(nn.relu(Dense(self.hidden, dtype=self.dtype, name="up")(x)))
    return Dense(x.shape[-1], names=("mlp", "embed"), dtype=self.dtype, name="down")(y)


class MLP(nn.Module):
  """Returns x through ReLU layers of `widths`; the last one is linear. For small towers: replicated, not sharded."""

  widths: tuple
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """Returns f[..., widths[-1]] of x f[..., in]."""
    for i, width in enumerate(self.widths):
      x = Dense(width, names=(None, None), dtype=self.dtype, name=f"layer_{i}")(x)
      x = nn.relu(x) if i + 1 < len(self.widths) else x
    return x
