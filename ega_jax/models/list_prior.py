"""What the list so far says about every candidate, before any code is decoded (our addition to EGA Eq. 22)."""

import jax.numpy as jnp
from flax import linen as nn

from ega_jax.models.pairs import LearnedPairs, pair_similarity
from ega_jax.nn.linear import Dense, partitioned


class ListContextPrior(nn.Module):
  """What the entries of a list add to the prior of those that follow: leaves of `ListPrior`.

  relation[b, j, i]: what a shown candidate j adds to the logit of i right below it; decay: by how many slots lie
  between them; ad_slot: what is added to ads by the slot that is filled. The decoder sees a list as codes and would
  have to learn which codes compete; that two POIs are of a kind is known of each pair beforehand. Everything that is
  added starts at 0.
  """

  max_items: int

  @nn.compact
  def __call__(self, catalog, candidates):
    """Returns (relation f32[B, C, C], decay f32[K], ad_slot f32[K]), K = max_items.

    Args: catalog: a Catalog; candidates i32[B, C], POI ids, -1 padded.
    """
    pois = candidates[:, None]
    pairs = [pair_similarity(catalog, pois), LearnedPairs(name="pairs")(catalog, pois)]
    zeros = nn.initializers.zeros
    mix = Dense(1, names=(None, None), use_bias=False, kernel_init=zeros, name="mix")(jnp.concatenate(pairs, axis=-1))
    distance = lambda key, shape, dtype=jnp.float32: 0.8 ** jnp.arange(shape[0], dtype=dtype)
    decay = self.param("decay", partitioned(distance, (None,)), (self.max_items,))
    ad_slot = self.param("ad_slot", partitioned(zeros, (None,)), (self.max_items,))
    # pairs[i, j] is how j bears on i.
    return jnp.swapaxes(mix[:, 0, :, :, 0], 1, 2).astype(jnp.float32), decay, ad_slot
