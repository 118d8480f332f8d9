"""Click probabilities of many lists of which few differ: each distinct list is scored once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.systems import generation
from ega_jax.systems.rows import at_items
from ega_jax.types import Request

BLOCK = 256  # distinct lists scored per call


@functools.partial(jax.jit, static_argnames=("models",))
def _score(models, params, request, items, creatives):
  return generation.click_probabilities(models, params, request, items, creatives)


def distinct_lists(items):
  """Returns (lists i32[B, U, K] padded with -1, index i64[B, X]): the distinct rows of items i32[B, X, K]."""
  found, index = zip(*[np.unique(rows, axis=0, return_inverse=True) for rows in items], strict=True)
  width = -(-max(len(rows) for rows in found) // BLOCK) * BLOCK
  lists = np.full((len(items), width, items.shape[-1]), -1, np.int32)
  for request, rows in enumerate(found):
    lists[request, : len(rows)] = rows
  return lists, np.stack([i.reshape(-1) for i in index])


def list_clicks(models, params, batch, items, creative_of):
  """Returns click probabilities f32[B, X, K] of lists items i32[B, X, K] by the reward model (EGA Eq. 18-20).

  Args: creative_of i32[B, C]: the creative that each candidate is shown with.
  """
  lists, index = distinct_lists(np.asarray(items))
  request = Request.from_batch(batch)
  creatives = at_items(creative_of, lists, -1)
  blocks = []
  for start in range(0, lists.shape[1], BLOCK):
    part = slice(start, start + BLOCK)
    blocks.append(_score(models, params, request, jnp.asarray(lists[:, part]), jnp.asarray(creatives[:, part])))
  theta = np.concatenate([np.asarray(block) for block in blocks], axis=1)
  return np.take_along_axis(theta, index[..., None], axis=1)
