"""How two POIs of a list bear on each other: fixed similarities and learned relations."""

import jax.numpy as jnp
from flax import linen as nn

from ega_jax.nn.linear import Dense, partitioned

NUM_PAIRS = 4  # fixed similarities; learned ones follow


def _pairs(pois):
  """Returns bool[B, U, K, K]: whether entries i and j are two that are there."""
  present = pois >= 0
  return present[..., :, None] & present[..., None, :] & ~jnp.eye(pois.shape[-1], dtype=bool)


def pair_similarity(catalog, pois):
  """Returns f32[B, U, K, K, 4]: of entries i and j, 1, same category, same parent, cosine of content; 0 if i = j or one
  is absent.

  Args: catalog: a Catalog; pois i32[B, U, K], -1 where absent.
  """
  safe = jnp.maximum(pois, 0)
  category, parent = catalog.poi_category[safe], catalog.poi_parent[safe]
  content = catalog.poi_embedding[safe]
  content = content / jnp.maximum(jnp.linalg.norm(content, axis=-1, keepdims=True), 1e-6)
  kinds = [
    jnp.ones((*pois.shape, pois.shape[-1])),
    category[..., :, None] == category[..., None, :],
    parent[..., :, None] == parent[..., None, :],
    jnp.einsum("...id,...jd->...ij", content, content),
  ]
  return jnp.where(_pairs(pois)[..., None], jnp.stack([jnp.asarray(kind, jnp.float32) for kind in kinds], axis=-1), 0.0)


class LearnedPairs(nn.Module):
  """How entry j of a list bears on entry i, learned: `kinds` relations of each of two sorts.

  A table over pairs of parent categories (complements are no similarity: no embedding's cosine shows them), and the
  positive part of cosines of projected content (a subspace of what describes a POI makes it a substitute).

  Args: num_parents: parent categories told apart, later ones share the last row; rank: of the subspaces.
  """

  num_parents: int = 32
  kinds: int = 2
  rank: int = 8

  @nn.compact
  def __call__(self, catalog, pois):
    """Returns f32[B, U, K, K, 2 * kinds], [.., i, j, :] being how j bears on i; 0 if i = j or one is absent.

    Args: catalog: a Catalog; pois i32[B, U, K], -1 where absent.
    """
    safe = jnp.maximum(pois, 0)
    table = self.param(
      "parents", partitioned(nn.initializers.normal(0.01), (None, None, None)), (self.num_parents,) * 2 + (self.kinds,)
    )
    parent = jnp.minimum(catalog.poi_parent[safe], self.num_parents - 1)
    by_parent = table[parent[..., :, None], parent[..., None, :]]
    content = Dense(self.kinds * self.rank, names=(None, None), use_bias=False, name="content")(
      catalog.poi_embedding[safe]
    ).reshape(*pois.shape, self.kinds, self.rank)
    content = content / jnp.maximum(jnp.linalg.norm(content, axis=-1, keepdims=True), 1e-6)
    alike = nn.relu(jnp.einsum("buicr,bujcr->buijc", content, content))
    return jnp.where(_pairs(pois)[..., None], jnp.concatenate([by_parent, alike], axis=-1), 0.0)
