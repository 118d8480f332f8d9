"""What the generator believes of every candidate before any code is decoded (ours; the paper has code logits alone)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ega_jax.models.ega_config import NUM_TASKS, EGAConfig
from ega_jax.models.features import candidate_features, moment
from ega_jax.models.visit_counts import START, visit_counts
from ega_jax.nn.embedding import IdEmbedding
from ega_jax.nn.linear import Dense, partitioned


class ItemPrior(nn.Module):
  """How likely each candidate is next, before any code is decoded, per task.

  A belief about clicks, once there is a reward model, enters as it is: what is known of every candidate alone need not
  be learned again, and the decoder learns what the list adds.
  """

  config: EGAConfig

  @nn.compact
  def __call__(self, summary, request, catalog, candidates, is_ad, task, belief=None):
    """Returns f32[B, C], in logits; 0 where a candidate is -1.

    Args: summary f[B, d] of the encoder; request, catalog: of `ega_jax.types`; candidates i32[B, C], POI ids; is_ad
      bool[B, C] or None (no ads); task: NEXT_VISITS or LIST; belief f32[B, C], log click probabilities, or None.
    """
    config, safe = self.config, jnp.maximum(candidates, 0)
    features = candidate_features(request, catalog, candidates)
    query = Dense(config.width, names=("embed", "mlp"), dtype=config.dtype, name="query")(summary)
    match = self._match(query, catalog, safe) * config.width**-0.5
    bias = IdEmbedding(config.num_pois, 1, name="bias")(safe)
    ad = jnp.zeros(candidates.shape) if is_ad is None else is_ad
    x = jnp.concatenate([features, match[..., None], bias, ad[..., None]], axis=-1)
    now = moment(request)[:, None]
    seen = jnp.concatenate([x, jnp.broadcast_to(now, (*x.shape[:2], now.shape[-1]))], axis=-1)
    hidden = nn.relu(Dense(config.prior_width, names=(None, "mlp"), name="hidden")(seen))
    both = jnp.concatenate([x, hidden], axis=-1)
    heads = Dense(NUM_TASKS, names=(None, None), kernel_init=nn.initializers.normal(0.02), name="heads")(both)
    prior = heads[..., task].astype(jnp.float32) + self._counts(request, catalog, candidates, task)
    weight = self.param("belief", partitioned(nn.initializers.ones, (None,)), (1,))
    prior = prior if belief is None else prior + weight * belief
    return jnp.where(candidates >= 0, prior, 0.0)

  def _counts(self, request, catalog, candidates, task):
    """Returns f[B, C]: a learned weight times the logarithm of `visit_counts`.

    A count-based recommender is confident where there is much to count and follows its prior elsewhere; no sum of
    logits is that. Its own weights are tuned on windows and not by gradients (`stages/habits.py`).
    """
    zeros = partitioned(nn.initializers.zeros, (None, None))
    offsets = jax.lax.stop_gradient(self.param("visit_weights", zeros, (2, len(START))))
    first = partitioned(lambda key, shape: jnp.eye(1, *shape)[0], (None,))  # 1 for next visits
    weight = self.param("counts", first, (NUM_TASKS,))[task]
    return weight * jnp.log(visit_counts(request, catalog, candidates, offsets))

  def _match(self, query, catalog, pois):
    """Returns f[B, C]: inner products of the query [B, d] with POI vectors; of the whole catalogue if less."""
    config, size = self.config, catalog.poi_embedding.shape[0]
    shared = size <= pois.size
    ids = jnp.arange(size) if shared else pois
    content = Dense(config.width, names=(None, "embed"), dtype=config.dtype, name="content")(catalog.poi_embedding[ids])
    vectors = content + IdEmbedding(config.num_pois, config.width, name="poi_id")(ids)
    if shared:
      return jnp.take_along_axis(jnp.einsum("pd,bd->bp", vectors, query), pois, axis=1)
    return jnp.einsum("bcd,bd->bc", vectors, query)
