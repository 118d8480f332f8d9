"""Weighted k-means on one device: greedy k-means++ seeds, chunked Lloyd steps, revival of dead codes.

Memory is bounded by `chunk x K` distances, never N x K. Rows carry a weight: 0 removes a row, 5 stands for five
identical ones. All random choices come from the key given, so equal inputs give equal centroids.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ega_jax.types import Array


class KMeans(NamedTuple):
  """The result of a fit; where fewer than K distinct rows exist the surplus centroids are duplicates."""

  centroids: Array  # f32[K, D]
  inertia: Array  # f32[]   weighted sum of squared distances before the last update
  steps: Array  # i32[]   Lloyd steps made


def squared_distances(points, centroids):
  """Returns f32[n, K] = |x|^2 - 2 x.c + |c|^2, never negative. Callers centre the points: this form cancels."""
  # Full precision: the default product of GPUs and TPUs rounds to 10 bits and would move points between codes.
  product = jnp.matmul(points, centroids.T, precision=jax.lax.Precision.HIGHEST)
  squares = jnp.sum(points**2, -1)[:, None] + jnp.sum(centroids**2, -1)
  return jnp.maximum(squares - 2 * product, 0)


def _chunks(array, chunk):
  """Returns `array` [N, ...] as [number of chunks, n, ...], zero padded, with n <= chunk as even as possible."""
  count = max(1, math.ceil(array.shape[0] / chunk))
  size = math.ceil(array.shape[0] / count)
  padding = [(0, count * size - array.shape[0])] + [(0, 0)] * (array.ndim - 1)
  return jnp.pad(array, padding).reshape(count, size, *array.shape[1:])


@functools.partial(jax.jit, static_argnames="chunk")
def nearest(points, centroids, *, chunk=4096):
  """Returns the nearest centroid of every point and its squared distance: (i32[N], f32[N]); ties to the lowest.

  Args: points f32[N, D], centred; centroids f32[K, D]; chunk: points whose distances are held at a time.
  """

  def assign(block):
    distance = squared_distances(block, centroids)
    return jnp.argmin(distance, -1).astype(jnp.int32), jnp.min(distance, -1)

  index, distance = jax.lax.map(assign, _chunks(points, chunk))
  return index.reshape(-1)[: points.shape[0]], distance.reshape(-1)[: points.shape[0]]


def seed_centroids(key, points, weights, size):
  """Returns f32[size, D] rows of `points` by greedy k-means++ (Arthur & Vassilvitskii 2007).

  Every step draws 2 + log(size) rows with probability weight * squared distance to the seeds so far, and keeps the
  one that lowers the weighted cost most. A row of weight 0 is not drawn while others are at a positive distance.
  """
  trials = 2 + int(math.log(size))

  def draw(key, mass):
    total = jnp.cumsum(mass)
    below = jax.random.uniform(key, (trials,)) * total[-1]
    return jnp.minimum(jnp.searchsorted(total, below, side="right"), mass.shape[0] - 1)

  def step(closest, key):
    candidates = draw(key, weights * closest)
    reached = jnp.minimum(closest[:, None], squared_distances(points, points[candidates]))
    best = jnp.argmin(weights @ reached)
    return reached[:, best], candidates[best]

  keys = jax.random.split(key, size)
  first = draw(keys[0], weights)[:1]
  _, rest = jax.lax.scan(step, squared_distances(points, points[first])[:, 0], keys[1:])
  return points[jnp.concatenate([first, rest])]


def _lloyd_step(points, weights, centroids, chunk):
  """Returns (means f32[K, D], mass f32[K], distances f32[N]) of the clusters around `centroids`."""
  size = centroids.shape[0]

  def add(carry, block):
    block_points, block_weights = block
    distance = squared_distances(block_points, centroids)
    member = jax.nn.one_hot(jnp.argmin(distance, -1), size) * block_weights[:, None]
    total = jnp.matmul(member.T, block_points, precision=jax.lax.Precision.HIGHEST)
    return (carry[0] + total, carry[1] + member.sum(0)), distance.min(-1)

  start = (jnp.zeros_like(centroids), jnp.zeros(size, centroids.dtype))
  (total, mass), distance = jax.lax.scan(add, start, (_chunks(points, chunk), _chunks(weights, chunk)))
  means = jnp.where(mass[:, None] > 0, total / jnp.maximum(mass, 1e-30)[:, None], centroids)
  return means, mass, distance.reshape(-1)[: points.shape[0]]


def revive(key, points, cost, centroids, mass):
  """Returns (centroids, i32[] number revived): dead codes (mass 0) move to distinct rows drawn by their cost f32[N].

  Rows whose cost is rounding error are not drawn: with fewer distinct rows than codes some codes stay dead.
  """
  dead = mass <= 0
  draws = min(centroids.shape[0], points.shape[0])
  floor = 1e-6 * jnp.sum(points**2, -1)
  chance = jnp.where(cost > floor, jnp.log(jnp.maximum(cost, 1e-37)), -jnp.inf)
  score, rows = jax.lax.top_k(chance + jax.random.gumbel(key, cost.shape), draws)  # sampling without replacement
  rank = jnp.cumsum(dead) - 1
  within = jnp.clip(rank, 0, draws - 1)
  moved = dead & (rank < draws) & jnp.isfinite(score[within])
  return jnp.where(moved[:, None], points[rows[within]], centroids), jnp.sum(moved)


@functools.partial(jax.jit, static_argnames=("iterations", "chunk"))
def lloyd(key, points, weights, centroids, *, iterations=50, tolerance=1e-4, chunk=4096):
  """Returns a KMeans refined from `centroids` f32[K, D] by at most `iterations` Lloyd steps.

  Stops early when a step lowers the inertia by less than `tolerance` of it and no dead code was revived.

  Args: key: of the rows that revive codes; points f32[N, D], centred; weights f32[N]; chunk: as in `nearest`.
  """

  def unfinished(state):
    _, _, steps, finished = state
    return (steps < iterations) & ~finished

  def step(state):
    centroids, before, steps, _ = state
    means, mass, distance = _lloyd_step(points, weights, centroids, chunk)
    cost = weights * distance
    inertia = jnp.sum(cost)
    means, revived = revive(jax.random.fold_in(key, steps), points, cost, means, mass)
    return means, inertia, steps + 1, (before - inertia <= tolerance * before) & (revived == 0)

  start = (centroids, jnp.float32(jnp.finfo(jnp.float32).max), jnp.int32(0), jnp.bool_(False))
  centroids, inertia, steps, _ = jax.lax.while_loop(unfinished, step, start)
  return KMeans(centroids, inertia, steps)


@functools.partial(jax.jit, static_argnames=("size", "iterations", "chunk"))
def fit_kmeans(key, points, weights, size, *, iterations=50, tolerance=1e-4, chunk=4096):
  """Returns a KMeans of `size` centroids for `points` f32[N, D], centred, with `weights` f32[N] (0 leaves a row out).

  iterations, tolerance, chunk: as in `lloyd`.
  """
  seed_key, lloyd_key = jax.random.split(key)
  centroids = seed_centroids(seed_key, points, weights, size)
  return lloyd(lloyd_key, points, weights, centroids, iterations=iterations, tolerance=tolerance, chunk=chunk)
