"""Residual k-means (RQ-Kmeans): level l clusters what levels 1..l-1 left over (EGA; GPR section 2).

Numerics: embeddings are centred and scaled to unit root mean square before anything is multiplied, identical rows are
merged (one code path per distinct embedding, whatever its position in a batch), and residuals that are rounding error
become exact zeros. Codebooks come back in the units of the embeddings: sum_l codebooks[l, codes[:, l]] ~ embedding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.tokenization import kmeans


def check_embeddings(embeddings, name="embeddings"):
  """Returns `embeddings` as f32[N, D]. Raises ValueError for another rank, no rows, or rows that are not finite."""
  array = np.asarray(embeddings)
  if array.ndim != 2 or 0 in array.shape:
    raise ValueError(f"{name}: shape {array.shape} is not allowed, expected [items >= 1, dimensions >= 1]")
  if array.dtype.kind not in "fiu":
    raise ValueError(f"{name}: dtype {array.dtype} is not allowed, expected real numbers")
  array = array.astype(np.float32)
  bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
  if bad.size:
    raise ValueError(f"{name}: {bad.size} rows hold NaN or infinite values (first: {bad[:5].tolist()}), none allowed")
  return array


def distinct_rows(array):
  """Returns (rows sorted lexicographically, inverse i64[N], counts i64[n]) of f32[N, D]; rows[inverse] == array."""
  # Adding 0 turns -0.0 into 0.0, which compares equal.
  return np.unique(array + np.float32(0), axis=0, return_inverse=True, return_counts=True)


def _check_sizes(levels, codebook_size, items):
  if levels < 1:
    raise ValueError(f"levels: {levels} is not allowed, expected at least 1")
  if not 1 <= codebook_size <= items:
    raise ValueError(f"codebook_size: {codebook_size} is not allowed, expected 1..{items} (the number of items)")


def _sample(rows, counts, limit, seed):
  """Returns (rows, counts), of at most `limit` rows drawn without replacement; the choice ignores the item order."""
  if len(rows) <= limit:
    return rows, counts
  chosen = np.sort(np.random.default_rng(seed).choice(len(rows), limit, replace=False))
  return rows[chosen], counts[chosen]


@functools.partial(jax.jit, static_argnames=("size", "iterations", "chunk"))
def _fit_level(key, residuals, weights, *, size, iterations, chunk):
  """Returns (codebook f32[size, D], next residuals f32[N, D])."""
  codebook = kmeans.fit_kmeans(key, residuals, weights, size, iterations=iterations, chunk=chunk).centroids
  index, _ = kmeans.nearest(residuals, codebook, chunk=chunk)
  residuals = residuals - codebook[index]
  # The points have unit scale: anything this small is rounding error, and clustering it would invent codes.
  noise = jnp.sum(residuals**2, -1) <= 1e-10 * residuals.shape[-1]
  return codebook, jnp.where(noise[:, None], 0, residuals)


def fit_residual_kmeans(embeddings, levels, codebook_size, seed=0, *, iterations=50, rows_per_code=256, chunk=4096):
  """Returns codebooks f32[levels, K, D] in the units of `embeddings` f[N, D], fitted level by level.

  Args:
    embeddings: one row per item. The order of the items does not matter: permuting them permutes their codes.
    levels: number of residual levels, at least 1.
    codebook_size: K, at most the number of items. With fewer distinct residuals than K some codes stay unused.
    seed: same seed, same codebooks.
    iterations: most Lloyd steps per level.
    rows_per_code: a level is fitted on at most this many distinct rows per code (a seeded sample).
    chunk: rows whose distances to all codes are held at a time.

  Raises:
    ValueError: naming the argument, its value and what is allowed.
  """
  embeddings = check_embeddings(embeddings)
  _check_sizes(levels, codebook_size, len(embeddings))
  rows, _, counts = distinct_rows(embeddings)
  rows, counts = _sample(rows, counts, rows_per_code * codebook_size, seed)
  weights = (counts / counts.mean()).astype(np.float32)
  mean = np.average(rows, axis=0, weights=weights).astype(np.float32)
  scale = np.float32(np.sqrt(np.mean((rows - mean) ** 2)) or 1)
  residuals, weights, codebooks = jnp.asarray((rows - mean) / scale), jnp.asarray(weights), []
  for level in range(levels):
    key = jax.random.fold_in(jax.random.key(seed), level)
    codebook, residuals = _fit_level(key, residuals, weights, size=codebook_size, iterations=iterations, chunk=chunk)
    codebooks.append(np.asarray(codebook) * scale)
  codebooks[0] = codebooks[0] + mean
  return np.stack(codebooks)


@functools.partial(jax.jit, static_argnames="chunk")
def residual_codes(points, codebooks, *, chunk=4096):
  """Returns i32[N, L]: at each level the code nearest to what the levels before left of `points` f32[N, D].

  Usable inside jit. `encode` adds the centring and merging that make it exact for duplicates and large offsets.
  """

  def level(residuals, codebook):
    index, _ = kmeans.nearest(residuals, codebook, chunk=chunk)
    return residuals - codebook[index], index

  return jax.lax.scan(level, points, codebooks)[1].T


def encode(embeddings, codebooks, *, chunk=4096):
  """Returns i32[N, L] codes of `embeddings` f[N, D] under `codebooks` f[L, K, D]; identical rows, identical codes.

  Raises:
    ValueError: the embeddings are malformed, or their width differs from the codebooks'.
  """
  embeddings = check_embeddings(embeddings)
  codebooks = np.asarray(codebooks, np.float32)
  if codebooks.ndim != 3 or codebooks.shape[2] != embeddings.shape[1]:
    expected = f"[levels, codes, {embeddings.shape[1]}] for embeddings of that width"
    raise ValueError(f"codebooks: shape {codebooks.shape} is not allowed, expected {expected}")
  rows, inverse, _ = distinct_rows(embeddings)
  # Shifting points and first codebook alike changes no distance but keeps |x|^2 - 2xc + |c|^2 from cancelling.
  centre = codebooks[0].mean(axis=0)
  codebooks = np.concatenate([codebooks[:1] - centre, codebooks[1:]])
  return np.asarray(residual_codes(jnp.asarray(rows - centre), jnp.asarray(codebooks), chunk=chunk))[inverse]


def reconstruct(codes, codebooks):
  """Returns f32[N, D], the sum over levels of the codewords of `codes` i32[N, L]."""
  codes, codebooks = np.asarray(codes), np.asarray(codebooks)
  return sum(codebooks[level][codes[:, level]] for level in range(codebooks.shape[0]))
