"""The loss that trains a residual-quantised autoencoder (pure functions over arrays)."""

import jax
import jax.numpy as jnp


def _summed(per_example, where):
  """Returns (sum, weight) over the examples that `where` bool[B] keeps; the others add 0 to value and gradient."""
  if where is None:
    return jnp.sum(per_example), jnp.asarray(per_example.shape[0], per_example.dtype)
  return jnp.sum(jnp.where(where, per_example, 0)), jnp.sum(where).astype(per_example.dtype)


def rq_vae_loss(embeddings, reconstruction, residuals, codewords, *, beta=0.25, where=None):
  """Returns (sum, weight, metrics) of |x - x_hat|^2 + sum_l(|sg[r_l] - c_l|^2 + beta |r_l - sg[c_l]|^2).

  GPR section 2 (EGA's RQ-VAE has the same form). Squares are summed over dimensions. r_l must come
  with no gradient to c_1..c_(l-1) (our decision): a codeword then moves by its own level's term only. The codebook
  and commitment terms are equal in value; they differ in what they move.

  Args:
    embeddings: x f32[B, D].
    reconstruction: x_hat f32[B, D].
    residuals: r_l f32[B, L, d], what levels before l left of the latent.
    codewords: c_l f32[B, L, d], the codeword chosen at each level.
    beta: weight of the commitment term, which moves the encoder.
    where: bool[B], the examples that count; None for all. A masked example may hold anything, NaN too.

  Returns:
    The sum over examples, their number, and a dict of (sum, weight): reconstruction, codebook, commitment.
  """
  if where is not None:
    # Masked before squaring: a NaN times a zero cotangent would still be a NaN in the gradient.
    embeddings, reconstruction = (jnp.where(where[:, None], x, 0) for x in (embeddings, reconstruction))
    residuals, codewords = (jnp.where(where[:, None, None], x, 0) for x in (residuals, codewords))
  rebuilt = jnp.sum((embeddings - reconstruction) ** 2, -1)
  codebook = jnp.sum((jax.lax.stop_gradient(residuals) - codewords) ** 2, (-2, -1))
  commitment = jnp.sum((residuals - jax.lax.stop_gradient(codewords)) ** 2, (-2, -1))
  total, weight = _summed(rebuilt + codebook + beta * commitment, where)
  parts = {"reconstruction": rebuilt, "codebook": codebook, "commitment": commitment}
  return total, weight, {name: _summed(value, where) for name, value in parts.items()}
