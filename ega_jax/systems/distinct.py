"""Click probabilities of many lists of which few differ: each is scored once per request, while it is kept."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.systems import generation
from ega_jax.systems.kept import LIMIT
from ega_jax.systems.rows import at_items
from ega_jax.types import Request

BLOCK = 64  # lists of one request that are scored together; a call scores as many blocks as there are requests


@functools.partial(jax.jit, static_argnames=("models",))
def score_lists(models, params, request, items, creatives):
  """Returns the click probabilities f32[B, U, K] of lists: items (positions in the candidates) and creatives (ids),
  i32[B, U, K], -1 absent.

  models, params, request: as in `generation`.
  """
  return generation.click_probabilities(models, params, request, items, creatives)


class ListClicks:
  """The reward model's click probabilities of lists, by request; those asked for least recently are dropped first.

  An own-bid sweep, its refinement and those of another payment or the equilibrium bring forth much the same lists.

  Args: models: generation.Models; params: the tree with "catalog", "ids" and "reward"; limit: bytes.
  """

  def __init__(self, models, params, limit=LIMIT):
    self.models, self.params, self.limit = models, params, limit
    self.forget()

  def forget(self):
    """Drops all that is kept."""
    self.size, self.requests = 0, {}

  def __call__(self, batch, items, creative_of):
    """Returns click probabilities f32[B, X, K] of lists items i32[B, X, K] (EGA Eq. 18-20).

    Args: batch: request columns or a Request; creative_of i32[B, C]: the creative that each candidate is shown with.
    """
    request = batch if isinstance(batch, Request) else Request.from_batch(batch)
    items = np.asarray(items)
    lists = np.concatenate([items, at_items(np.asarray(creative_of), items, -1)], axis=-1).astype(np.int32)
    keys = digests(jax.tree.leaves(request))
    found = [self.requests.get(key, Scored.none(items.shape[-1])) for key in keys]
    new = [known.missing(rows) for known, rows in zip(found, lists, strict=True)]
    theta = self._theta(request, new)
    pairs = zip(found, new, theta, strict=True)
    found = [known.with_lists(*more) for known, *more in pairs]
    for key, known in zip(keys, found, strict=True):
      self._keep(key, known)
    return np.stack([known.theta[known.place(rows)] for known, rows in zip(found, lists, strict=True)])

  def programs(self, request, items, creative_of):
    """Yields what scores lists i32[B, X, K] that are all new, as `EGASystem.programs`."""
    items = np.asarray(items)
    for start in range(0, items.shape[1], BLOCK):
      some = items[:, start : start + BLOCK]
      yield functools.partial(score_lists, self.models), (self.params, request, some, at_items(creative_of, some, -1))

  def _theta(self, request, new):
    """Returns f32[M, K] of each request's lists `new` i32[M, 2 * K]: in blocks, since their numbers differ widely."""
    length = new[0].shape[-1] // 2
    theta = [np.zeros((len(lists), length), np.float32) for lists in new]
    blocks = [(row, start) for row, lists in enumerate(new) for start in range(0, len(lists), BLOCK)]
    for first in range(0, len(blocks), len(new)):
      some = blocks[first : first + len(new)]
      rows = np.array([row for row, _ in some] + [0] * (len(new) - len(some)))
      lists = np.full((len(new), BLOCK, 2 * length), -1, np.int32)
      for block, (row, start) in zip(lists, some, strict=False):
        part = new[row][start : start + BLOCK]
        block[: len(part)] = part
      its = jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf)[rows], request)
      items, creatives = (jnp.asarray(part) for part in (lists[..., :length], lists[..., length:]))
      found = np.asarray(score_lists(self.models, self.params, its, items, creatives))
      for block, (row, start) in zip(found, some, strict=False):
        part = theta[row][start : start + BLOCK]
        part[:] = block[: len(part)]
    return theta

  def _keep(self, key, known):
    old = self.requests.pop(key, None)
    self.requests[key], self.size = known, self.size + known.nbytes - (old.nbytes if old else 0)
    while self.size > self.limit:
      self.size -= self.requests.pop(next(iter(self.requests))).nbytes


class Scored:
  """Lists of one request, each its items and their creatives, and what is known of them.

  Lists are found by a linear hash mod 2^64 with fixed multipliers; two lists of one hash are an error, not a mix-up.
  """

  def __init__(self, hashes, lists, theta):
    self.hashes, self.lists, self.theta = hashes, lists, theta  # u64[N] ascending, i32[N, 2 * K], f32[N, K]

  @classmethod
  def none(cls, length):
    """Returns a table without lists of `length` items."""
    return cls(np.zeros(0, np.uint64), np.zeros((0, 2 * length), np.int32), np.zeros((0, length), np.float32))

  @property
  def nbytes(self):
    """Bytes held."""
    return self.hashes.nbytes + self.lists.nbytes + self.theta.nbytes

  def missing(self, lists):
    """Returns i32[M, 2 * K]: the distinct ones among lists i32[X, 2 * K] that are not held."""
    hashes, first = np.unique(_hash(lists), return_index=True)
    return lists[first[~np.isin(hashes, self.hashes, assume_unique=True)]]

  def with_lists(self, lists, theta):
    """Returns the table with the lists i32[M, 2 * K], none of which it holds, and their theta f32[M, K]."""
    if not len(lists):
      return self
    hashes = np.concatenate([self.hashes, _hash(lists)])
    order = np.argsort(hashes)
    joined = np.concatenate([self.lists, lists]), np.concatenate([self.theta, theta])
    return Scored(hashes[order], *(rows[order] for rows in joined))

  def place(self, lists):
    """Returns i[X]: where each of the lists i32[X, 2 * K] is."""
    index = np.searchsorted(self.hashes, _hash(lists))
    if not np.array_equal(self.lists[index], lists):
      raise RuntimeError("two lists of a request have one hash")
    return index


def _hash(lists):
  """Returns u64[X] of lists i32[X, 2 * K]."""
  weights = np.random.default_rng(0).integers(1, 2**63, lists.shape[-1], np.uint64) * np.uint64(2) + np.uint64(1)
  return ((lists + 1).astype(np.uint64) * weights).sum(-1, dtype=np.uint64)


def digests(leaves):
  """Returns a digest of each row of arrays [B, ...]."""
  leaves = [np.ascontiguousarray(leaf) for leaf in leaves]
  return [hashlib.sha256(b"".join(leaf[row].tobytes() for leaf in leaves)).digest() for row in range(len(leaves[0]))]
