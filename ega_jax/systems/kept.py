"""Results kept by what they were computed from, within a bound on memory."""

import hashlib

import jax
import numpy as np

LIMIT = 2**30  # bytes


class Kept:
  """A bounded table of results, the oldest dropped first."""

  def __init__(self, limit=LIMIT):
    self.limit, self.size, self.results = limit, 0, {}

  def get(self, inputs, compute):
    """Returns compute(), a tree of arrays that depends on nothing but the tree of arrays `inputs`; held on the host."""
    key = hashlib.sha256()
    for leaf in jax.tree.leaves(inputs):
      leaf = np.ascontiguousarray(leaf)
      key.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
    key = key.digest()
    if key not in self.results:
      found = jax.tree.map(np.asarray, compute())
      size = sum(leaf.nbytes for leaf in jax.tree.leaves(found))
      if size > self.limit:
        return found
      while self.results and self.size + size > self.limit:
        _, dropped = self.results.pop(next(iter(self.results)))
        self.size -= dropped
      self.results[key], self.size = (found, size), self.size + size
    return self.results[key][0]
