"""The generator learns what the reward model says of every candidate and creative alone, before it learns lists.

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
    request = Request.from_batch(batch)
    scaled = generation.in_market(lists, params["market"])
    distance, target, states = pointwise_distance(models, params, request, request.bid, scaled)
    creatives = creative_distance(models, params, request, target, states[:, :, 0], options, rng)
    rows = jnp.float32(distance.shape[0])
    metrics = {"divergence": (jnp.sum(distance), rows), "creatives": (jnp.sum(creatives), rows)}
    return jnp.sum(distance + creatives), rows, metrics

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
  """Returns (f32[B], target f32[B, C], states f[B, C, 1, d]): KL divergence of z at the first slot from the target.

  The target is log of w times the reward model's click on each candidate alone, normalised; states come after each.

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
  logits, states = generation.apply(models.generator, params["generator"], "decode", prepared.memory, codes, LIST)
  log_z = slate.list_log_z(logits[:, :, 0], table, every, bids, prepared.prior, lists, reuse=True)
  return jnp.sum(jnp.where(table.valid, jnp.exp(target) * (target - log_z), 0.0), axis=-1), target, states


def creative_distance(models, params, request, target, states, options, rng):
  """Returns f32[B]: mean cross-entropy of the creative chain (EGA Eq. 28) to the reward model's choice of creative.

  For `options.candidates` candidates drawn from the target; the labels are soft: softmax of the reward model's log-odds
  of a POI click plus a creative click for each own creative, sharpened by `options.sharpness`.
  """
  count = min(options.candidates, target.shape[1])
  drawn = jax.lax.top_k(target + jax.random.gumbel(rng, target.shape), count)[1]
  pois = jnp.maximum(jnp.take_along_axis(request.candidates, drawn, axis=1), 0)
  own = params["catalog"].poi_creatives[pois]  # [B, X, R]
  exists = own >= 0
  flat = lambda x: x.reshape(x.shape[0], -1, 1)
  items = flat(jnp.broadcast_to(drawn[..., None], own.shape))
  logits = models.reward.apply({"params": params["reward"]}, request, params["catalog"], items, flat(own))
  worth = (logits["poi"] + logits["creative"]).reshape(own.shape)
  label = jax.nn.softmax(jnp.where(exists, options.sharpness * jax.lax.stop_gradient(worth), -1e9), axis=-1)
  after = jnp.take_along_axis(states, drawn[..., None], axis=1)
  log_p = generation.creative_log_probabilities(models, params, after, own)
  log_q = jax.nn.log_softmax(jnp.where(exists, log_p, -1e9), axis=-1)  # among own creatives, as generation chooses
  return jnp.mean(-jnp.sum(jnp.where(exists, label * log_q, 0.0), axis=-1), axis=-1)
