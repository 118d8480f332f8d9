"""The generator learns from the reward model what every candidate adds to a list, one step at a time.

A step between reward model and policy gradient, ours: pre-training saw clicks on shown items only, and a rollout tells
of ten items. Here a prefix is sampled from z, and z of the next item is fitted to what the reward model says each of
many candidates would add to score(Y): neighbours included, which is what a pointwise belief cannot know.
"""

import jax
import jax.numpy as jnp
import optax

from ega_jax.decoding import constraints, slate
from ega_jax.decoding.lists import ListConfig, proposal_bids, take_rows
from ega_jax.models.ega import LIST
from ega_jax.stages.batches import logged
from ega_jax.systems import generation
from ega_jax.training.stage import Stage
from ega_jax.types import Request


def align_stage(config, models, lists: ListConfig, *, name="align", source="reward", process=(0, 1)) -> Stage:
  """Returns the stage that fits z of the next item to the gain in score(Y) of each candidate, and creatives to clicks.

  It starts from the reward model's belief about every candidate alone, sharpened as bids are (weight alpha): what
  pre-training learned of lists stays in the decoder's states, its list heads begin at 0.
  """
  options = config.align

  def init(rng, previous):
    del rng
    kept = {key: previous[source][key] for key in ("catalog", "ids", "generator", "reward", "market")}
    return {**kept, "generator": start_from_belief(kept["generator"], lists.alpha, options.sharpness)}

  def loss(params, batch, rng):
    request = Request.from_batch(batch)
    prepared = generation.prepare(models, params, request)
    scaled = generation.in_market(lists, params["market"])
    steps = sample_steps(models, params, prepared, scaled, options, rng)
    target = step_target(models, params, prepared, steps, lists.alpha, options)
    divergence, states = step_divergence(models, params, prepared, steps, target, scaled)
    codes = generation.list_codes(prepared.table, steps["items"].reshape(states.shape[:2]))
    states = generation.apply(models.generator, params["generator"], "creative_states", prepared.memory, codes, states)
    creatives = creative_distance(models, params, prepared, steps, states, options.sharpness)
    rows = jnp.float32(request.user.shape[0])
    metrics = {"divergence": (jnp.sum(divergence), rows), "creatives": (jnp.sum(creatives), rows)}
    return jnp.sum(divergence + options.creative_weight * creatives), rows, metrics

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


def start_from_belief(generator, weight, sharpness):
  """Returns the generator whose list prompt follows the belief alone: prior = weight * belief, decoder logits 0.

  Its creatives follow the creative chain and `sharpness` times the belief about them.
  """
  generator = dict(generator, poi_head=generator["poi_head"].at[LIST].set(0.0))
  generator["creative_belief"] = jnp.full_like(generator["creative_belief"], sharpness)
  if "item_prior" in generator:
    prior = dict(generator["item_prior"])
    prior["heads"] = {key: leaf.at[..., LIST].set(0.0) for key, leaf in prior["heads"].items()}
    generator["item_prior"] = dict(prior, belief=jnp.full_like(prior["belief"], weight))
  return generator


def sample_steps(models, params, prepared, lists, options, rng):
  """Returns {"prefix" i32[B, T, K], "place" i32[B, T], "items" i32[B, T, M]}: T steps of sampled lists, M choices each.

  Two hundred ads of little worth together outweigh the few of much: lists drawn from z itself would hold what no beam
  ever shows, so they are drawn at a low temperature.
  Choices are drawn without replacement, by belief times bid, from what is available after the prefix.
  """
  params, prepared = jax.lax.stop_gradient((params, prepared))
  request, table = prepared.request, prepared.table
  rollout_rng, place_rng, item_rng = jax.random.split(rng, 3)
  decoder = generation.decoder(models, params, prepared.memory, lists.list_length * table.codes.shape[-1])
  draw = lambda rng: slate.sampled(
    decoder, table, request.bid, prepared.prior, lists, rng, temperature=options.temperature
  )
  sampled = draw(rollout_rng)
  batch, count = request.user.shape[0], options.places  # sampled: [B, 1, K]
  place = jax.random.randint(place_rng, (batch, count), 0, lists.list_length)
  prefix = jnp.where(jnp.arange(lists.list_length) < place[..., None], sampled, -1)
  score = constraints.item_log_weight(table, proposal_bids(request.bid, lists), lists)
  score = score if prepared.prior is None else score + prepared.prior
  open_items = constraints.available_items(table, prefix)
  noisy = score[:, None] + jax.random.gumbel(item_rng, open_items.shape)
  best, items = jax.lax.top_k(jnp.where(open_items, noisy, -jnp.inf), min(options.candidates, score.shape[1]))
  return {"prefix": prefix, "place": place, "items": jnp.where(best > -jnp.inf, items, -1)}


def _with_item(steps):
  """Returns lists i32[B, T, M, K]: each prefix with each choice in the next slot."""
  slot = jnp.arange(steps["prefix"].shape[-1]) == steps["place"][..., None]  # [B, T, K]
  return jnp.where(slot[:, :, None], steps["items"][..., None], steps["prefix"][:, :, None])


def step_target(models, params, prepared, steps, sharpness, options):
  """Returns log q f32[B, T, M]: log of each choice's gain in score(Y), times sharpness, normalised over the choices.

  The gain is that of the list up to and including the choice; less than `options.floor` of the step's best counts as
  that much.
  """
  request = prepared.request
  lists = jnp.concatenate([steps["prefix"][:, :, None], _with_item(steps)], axis=2)  # [B, T, 1 + M, K]
  flat = lists.reshape(lists.shape[0], -1, lists.shape[-1])
  creatives = take_rows(best_creatives(params, prepared), jnp.maximum(flat, 0))
  theta = generation.click_probabilities(models, params, request, flat, jnp.where(flat >= 0, creatives, -1))
  place = jnp.maximum(flat, 0)
  weight = params["market"]["organic_weight"]
  score = slate.list_score(
    theta, take_rows(request.bid, place), take_rows(request.is_ad, place), weight, where=flat >= 0
  ).reshape(lists.shape[:3])
  gain = score[..., 1:] - score[..., :1]
  exists = steps["items"] >= 0
  best = jnp.max(jnp.where(exists, gain, 0.0), axis=-1, keepdims=True)
  log_gain = sharpness * jnp.log(jnp.maximum(gain, jnp.maximum(options.floor * best, 1e-9)))
  return jax.lax.stop_gradient(jax.nn.log_softmax(jnp.where(exists, log_gain, -1e9), axis=-1))


def best_creatives(params, prepared):
  """Returns i32[B, C]: the creative of each candidate that the reward model prefers, by both clicks; 0 for padding."""
  own = params["catalog"].poi_creatives[jnp.maximum(prepared.request.candidates, 0)]
  best = jnp.argmax(generation.creative_belief(prepared.alone), axis=-1)
  return jnp.maximum(jnp.take_along_axis(own, best[..., None], axis=-1)[..., 0], 0)


def step_divergence(models, params, prepared, steps, log_target, lists):
  """Returns (f32[B], states f[B, T * M, d]): mean KL divergence of z over the choices, both renormalised over them."""
  shape = steps["items"].shape
  sequences = _with_item(steps).reshape(shape[0], -1, steps["prefix"].shape[-1])
  codes = generation.list_codes(prepared.table, sequences)
  logits, states = generation.apply(models.generator, params["generator"], "decode", prepared.memory, codes, LIST)
  place = jnp.repeat(steps["place"], shape[2], axis=1)  # [B, T * M]
  pick = lambda x: jnp.take_along_axis(x, place.reshape(*place.shape, *([1] * (x.ndim - 2))), axis=2)[:, :, 0]
  under = constraints.available_items(prepared.table, steps["prefix"])
  under = jnp.repeat(under, shape[2], axis=1)
  items = steps["items"].reshape(shape[0], -1)
  log_z = slate.items_log_z(
    pick(logits), prepared.table, items, under, prepared.request.bid, prepared.prior, lists
  ).reshape(shape)
  exists = steps["items"] >= 0
  log_z = jax.nn.log_softmax(jnp.where(exists, log_z, -1e9), axis=-1)
  divergence = jnp.sum(jnp.where(exists, jnp.exp(log_target) * (log_target - log_z), 0.0), axis=-1)
  return jnp.mean(divergence, axis=-1), pick(states)


def creative_distance(models, params, prepared, steps, states, sharpness):
  """Returns f32[B]: mean cross-entropy of the creative chain (EGA Eq. 28) to the reward model's choice of creative.

  The labels are soft: softmax of the reward model's log-odds of a POI click plus a creative click for each own
  creative, sharpened.
  """
  items = steps["items"].reshape(states.shape[:2])
  pois = jnp.maximum(take_rows(prepared.request.candidates, jnp.maximum(items, 0)), 0)
  own = params["catalog"].poi_creatives[pois]  # [B, X, R]
  exists = (own >= 0) & (items >= 0)[..., None]
  worth = take_rows(generation.creative_belief(prepared.alone), jnp.maximum(items, 0))
  label = jax.nn.softmax(jnp.where(exists, sharpness * worth, -1e9), axis=-1)
  scores = generation.creative_scores(models, params, states, own, worth)
  log_q = jax.nn.log_softmax(jnp.where(exists, scores, -1e9), axis=-1)  # among own creatives, as generation chooses
  loss = -jnp.sum(jnp.where(exists, label * log_q, 0.0), axis=-1)
  return jnp.sum(loss, axis=-1) / jnp.maximum(jnp.sum(items >= 0, axis=-1), 1)
