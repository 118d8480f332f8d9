"""The generator learns what the reward model says of every candidate alone, before it learns lists.

A step between reward model and policy gradient, ours: pre-training saw clicks on shown items only, and a rollout tells
of ten items; this tells of all candidates of a request at once, and leaves to the policy gradient what only lists show.
"""

import jax
import jax.numpy as jnp
import optax

from ega_jax.decoding import constraints, slate
from ega_jax.decoding.lists import ListConfig
from ega_jax.models.ega import LIST
from ega_jax.stages.batches import logged
from ega_jax.systems import generation
from ega_jax.training.stage import Stage
from ega_jax.types import Request


def align_stage(config, models, lists: ListConfig, *, name="align", source="reward", process=(0, 1)) -> Stage:
  """Returns the stage that fits z at the first slot to w times the reward model's click on each candidate alone."""
  options = config.align

  def init(rng, previous):
    del rng
    return {key: previous[source][key] for key in ("catalog", "ids", "generator", "reward", "market")}

  def loss(params, batch, rng):
    del rng
    request = Request.from_batch(batch)
    scaled = generation.in_market(lists, params["market"])
    distance = pointwise_distance(models, params, request, request.bid, scaled)
    rows = jnp.float32(distance.shape[0])
    return jnp.sum(distance), rows, {"divergence": (jnp.sum(distance), rows)}

  schedule = optax.cosine_decay_schedule(options.learning_rate, max(options.steps, 1))
  return Stage(
    name=name,
    init=init,
    loss=loss,
    batches=logged(config, options.batch_size, (), salt=6, process=process),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)),
    trainable=options.trainable,
    num_steps=options.steps,
  )


def pointwise_distance(models, params, request, bids, lists):
  """Returns f32[B]: KL divergence of z at the first slot from w times the reward model's click on each candidate alone.

  Over all candidates, organic order aside. Both distributions carry w (EGA Eq. 21).
  """
  prepared = generation.prepare(models, params, request)
  table, catalog = prepared.table, params["catalog"]
  every = jnp.where(table.valid, jnp.arange(table.valid.shape[1]), -1)
  first = catalog.poi_creatives[jnp.maximum(request.candidates, 0), 0]
  theta = generation.click_probabilities(models, params, request, every[..., None], first[..., None])[..., 0]
  target = jnp.log(jnp.maximum(theta, 1e-6)) + constraints.item_log_weight(table, bids, lists)
  target = jax.lax.stop_gradient(jax.nn.log_softmax(jnp.where(table.valid, target, -1e9), axis=-1))
  codes = generation.list_codes(table, every)[:, :, None]
  logits, _ = generation.apply(models.generator, params["generator"], "decode", prepared.memory, codes, LIST)
  log_z = slate.list_log_z(logits[:, :, 0], table, every, bids, prepared.prior, lists, reuse=True)
  return jnp.sum(jnp.where(table.valid, jnp.exp(target) * (target - log_z), 0.0), axis=-1)
