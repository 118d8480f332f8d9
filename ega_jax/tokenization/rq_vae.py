"""RQ-VAE: an autoencoder whose latent is a sum of codewords, one per level (EGA; GPR section 2).

Codes collapse when codebooks start at random, so they start at residual k-means of the encoder's outputs
(`init_codebooks_by_kmeans`). Codes that die in training (our decision): the codebooks start once more at residual
k-means of the encoder's outputs, in `launch.tokenize` after a first quarter of the steps, in EGA's recipe at the end.
The step itself stays a plain gradient step, so that it runs in any loop; the starts are host-side, between stages.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.losses.quantization import rq_vae_loss
from ega_jax.tokenization import residual
from ega_jax.types import Array

TRAINABLE = r"(encoder|decoder|codebooks)"  # `input_mean` and `input_scale` are constants of the data


@dataclasses.dataclass(frozen=True)
class RQVAEConfig:
  """Sizes of an RQ-VAE; `hidden` are the encoder's layers, the decoder mirrors them."""

  input_size: int
  hidden: tuple[int, ...] = (512, 256)
  latent: int = 64
  levels: int = 3
  codebook_size: int = 256
  beta: float = 0.25


class Quantised(NamedTuple):
  """What a forward pass returns; inputs and reconstruction are in standardised units."""

  inputs: Array  # f32[B, D]
  reconstruction: Array  # f32[B, D]
  residuals: Array  # f32[B, L, d]
  codewords: Array  # f32[B, L, d]
  codes: Array  # i32[B, L]


def quantise(latents, codebooks):
  """Returns (residuals f32[B, L, d], codewords f32[B, L, d], codes i32[B, L]) of `latents` f32[B, d].

  Each level takes the codeword nearest to what the levels before left. Residuals carry gradient to the latents only.
  """

  def level(left, codebook):
    # The search compares distances and needs no gradient; |latent|^2 is common to all codes.
    product = jnp.matmul(left, codebook.T, precision=jax.lax.Precision.HIGHEST)
    code = jnp.argmin(jnp.sum(codebook**2, -1) - 2 * product, -1).astype(jnp.int32)
    codeword = codebook[code]
    return left - jax.lax.stop_gradient(codeword), (left, codeword, code)

  _, (residuals, codewords, codes) = jax.lax.scan(level, latents, codebooks)
  return jnp.swapaxes(residuals, 0, 1), jnp.swapaxes(codewords, 0, 1), codes.T


class _MLP(nn.Module):
  """Linear layers with SiLU between them; widths are "embed" and "mlp" in turn, that of the data has no name: no number
  of devices need divide it."""

  sizes: tuple[int, ...]
  data: int  # which width is the data's: 0, the input's, or -1, the output's

  @nn.compact
  def __call__(self, x):
    widths = ["mlp" if layer % 2 else "embed" for layer in range(len(self.sizes) + 1)]
    widths[self.data] = None
    for layer, size in enumerate(self.sizes):
      axes = tuple(widths[layer : layer + 2])
      kernel = nn.with_logical_partitioning(nn.initializers.lecun_normal(), axes)
      bias = nn.with_logical_partitioning(nn.initializers.zeros, axes[1:])
      x = nn.Dense(size, kernel_init=kernel, bias_init=bias, name=f"layer_{layer}")(x)
      x = x if layer == len(self.sizes) - 1 else nn.silu(x)
    return x


class RQVAE(nn.Module):
  """Encoder MLP -> residual quantisation with a straight-through estimator -> decoder MLP."""

  config: RQVAEConfig

  def setup(self):
    config = self.config
    self.encoder = _MLP((*config.hidden, config.latent), data=0)
    self.decoder = _MLP((*reversed(config.hidden), config.input_size), data=-1)
    shape = (config.levels, config.codebook_size, config.latent)
    codebooks = nn.with_logical_partitioning(nn.initializers.normal(config.latent**-0.5), (None, "vocab", "embed"))
    self.codebooks = self.param("codebooks", codebooks, shape)
    self.input_mean = self.param("input_mean", nn.initializers.zeros, (config.input_size,))
    self.input_scale = self.param("input_scale", nn.initializers.ones, ())

  def standardise(self, embeddings):
    """Returns (embeddings - mean) / scale, f32[B, D]: unit mean square over items and dimensions."""
    return (embeddings - jax.lax.stop_gradient(self.input_mean)) / jax.lax.stop_gradient(self.input_scale)

  def encode(self, embeddings):
    """Returns latents f32[B, d] of `embeddings` f32[B, D] in their own units."""
    return self.encoder(self.standardise(embeddings))

  def decode(self, latents):
    """Returns embeddings f32[B, D], in their own units, of `latents` f32[B, d]."""
    return self.decoder(latents) * self.input_scale + self.input_mean

  def __call__(self, embeddings):
    """Returns Quantised for `embeddings` f32[B, D]; the decoder reads the sum of codewords, straight-through."""
    inputs = self.standardise(embeddings)
    latents = self.encoder(inputs)
    residuals, codewords, codes = quantise(latents, self.codebooks)
    straight_through = latents + jax.lax.stop_gradient(codewords.sum(1) - latents)
    return Quantised(inputs, self.decoder(straight_through), residuals, codewords, codes)


def rq_vae_loss_fn(module, name=None, column="embedding"):
  """Returns loss(params, batch, rng) -> (sum, weight, metrics) for a training stage.

  Args:
    module: the RQVAE.
    name: key of the module's parameters in `params`; None if `params` are the module's own.
    column: batch column f32[B, D]; an optional column "where" bool[B] marks the rows that count.
  """

  def loss(params, batch, rng):
    del rng  # nothing is sampled
    own = params if name is None else params[name]
    out = module.apply({"params": own}, batch[column])
    return rq_vae_loss(
      out.inputs, out.reconstruction, out.residuals, out.codewords, beta=module.config.beta, where=batch.get("where")
    )

  return loss


@functools.partial(jax.jit, static_argnames=("module", "method"))
def _apply(module, params, array, method):
  return module.apply({"params": params}, array, method=method)


def _by_distinct_row(module, params, embeddings, method, chunk=16384):
  """Returns f32[N, d]: `method` of every row, computed once per distinct row so that duplicates agree exactly."""
  rows, inverse, _ = residual.distinct_rows(residual.check_embeddings(embeddings))
  blocks = [_apply(module, params, rows[i : i + chunk], method) for i in range(0, len(rows), chunk)]
  return np.concatenate([np.asarray(block) for block in blocks])[inverse]


def _with_codebooks(params, codebooks):
  """Returns `params` with other codebooks, keeping the logical-axis box if there is one."""
  old = params["codebooks"]
  codebooks = jnp.asarray(codebooks)
  return {**params, "codebooks": old.replace_boxed(codebooks) if hasattr(old, "replace_boxed") else codebooks}


def init_codebooks_by_kmeans(module, params, embeddings, seed=0):
  """Returns `params` with the statistics of `embeddings` f[N, D] and codebooks at residual k-means of the latents.

  Call it on fresh parameters and again early in training; the rest of `params` is untouched.

  Raises:
    ValueError: malformed embeddings, or fewer items than codes.
  """
  embeddings = residual.check_embeddings(embeddings)
  mean = embeddings.mean(axis=0)
  scale = np.float32(np.sqrt(np.mean((embeddings - mean) ** 2)) or 1)
  params = {**params, "input_mean": jnp.asarray(mean), "input_scale": jnp.asarray(scale)}
  latents = _by_distinct_row(module, nn.meta.unbox(params), embeddings, "encode")
  config = module.config
  return _with_codebooks(params, residual.fit_residual_kmeans(latents, config.levels, config.codebook_size, seed))


def encode(module, params, embeddings):
  """Returns i32[N, L], the codes of `embeddings` f[N, D]; identical rows get identical codes."""
  return residual.encode(_by_distinct_row(module, params, embeddings, "encode"), params["codebooks"])


def reconstruct(module, params, codes):
  """Returns f32[N, D], the decoded sum of the codewords of `codes` i32[N, L]."""
  latents = residual.reconstruct(codes, params["codebooks"])
  return _by_distinct_row(module, params, latents, "decode")
