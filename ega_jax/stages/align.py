"""The generator imitates lists that local search improves under the reward model, before the policy gradient.

A step of ours, expert iteration (Anthony et al. 2017): a list is sampled from z, its best neighbour by score(Y)
replaces it a few times over, and z of the result is raised. Pre-training saw clicks on shown items only, and a policy
gradient learns from what its own rollouts happen to try; here whole lists are searched, such as the reward model knows.
"""

import jax
import jax.numpy as jnp
import optax

from ega_jax.decoding import slate
from ega_jax.decoding.lists import ListConfig, take_rows
from ega_jax.decoding.neighbours import moves, neighbours
from ega_jax.models.ega_config import LIST
from ega_jax.stages.batches import logged
from ega_jax.stages.market import balanced_price
from ega_jax.systems import generation
from ega_jax.systems.creatives import creative_belief, creative_scores
from ega_jax.systems.ega import EGASystem
from ega_jax.training.stage import Stage
from ega_jax.types import Request

RANKS = 10  # unshown ads that a move may bring in, by belief times bid


def align_stage(
  config, models, lists: ListConfig, *, name="align", generator="pretrain", reward="reward", process=(0, 1)
) -> Stage:
  """Returns the stage that fits z to improved lists, and creatives to clicks.

  It starts from the reward model's belief about every candidate alone, sharpened as bids are (weight alpha): what
  pre-training learned of lists stays in the decoder's states, its list heads begin at 0.

  Args:
    config: the experiment's config. models: generation.Models. lists: ListConfig.
    name: of the stage. generator, reward: the stages that the generator, and all else, are from.
    process: (index, count): which rows this process reads.

  Raises: ValueError where config.align.moves is less than 2.
  """
  options = config.align
  if options.moves < 2:
    raise ValueError(f"config.align.moves is {options.moves}; it must be at least 2: the list itself and a neighbour")

  def init(rng, previous):
    del rng
    kept = {key: previous[reward][key] for key in ("catalog", "ids", "reward", "market")}
    return {**kept, "generator": start_from_belief(previous[generator]["generator"], lists.alpha, options.sharpness)}

  def loss(params, batch, rng):
    request = Request.from_batch(batch)
    prepared = generation.prepare(models, params, request)
    scaled = generation.in_market(lists, params["market"])
    items, score, gain = improved_lists(models, params, prepared, scaled, options, rng)
    codes = generation.list_codes(prepared.table, items)
    decode = lambda method, *args: generation.apply(models.generator, params["generator"], method, *args)
    logits, states = decode("decode", prepared.memory, codes, LIST)
    log_z = slate.list_log_z(logits, prepared.table, items, request.bid, prepared.prior, scaled)
    distance = -jnp.sum(jnp.where(items >= 0, log_z, 0.0), axis=-1)
    states = decode("creative_states", prepared.memory, codes, states)
    creatives = creative_distance(models, params, prepared, items, states, options.sharpness)
    rows = jnp.float32(items.shape[0])
    values = {"distance": distance, "creatives": creatives, "score": score, "gain": gain}
    metrics = {key: (jnp.sum(value), rows) for key, value in values.items()}
    return jnp.sum(distance + options.creative_weight * creatives), rows, metrics

  def finish(params, previous):
    del previous
    system = EGASystem(name, models, params, lists)  # lists that are better than greedy ones hold more ads at a price
    return generation.at_slot_price(params, balanced_price(config, system, roughly=True))

  schedule = optax.cosine_decay_schedule(options.learning_rate, max(options.steps, 1))
  return Stage(
    name=name,
    needs=(generator, reward),
    finish=finish,
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
    prior["counts"] = prior["counts"].at[LIST].set(0.0)
    generator["item_prior"] = dict(prior, belief=jnp.full_like(prior["belief"], weight))
  return generator


def improved_lists(models, params, prepared, lists, options, rng):
  """Returns (items i32[B, K], score f32[B], gain f32[B]): sampled lists after local search, and score(Y) gained by it.

  Lists are sampled at a low temperature: two hundred ads of little worth together outweigh the few of much, so that z
  itself would hold what no beam ever shows. Each of `options.rounds` keeps the best of `options.moves` lists, the list
  itself and random neighbours. Nothing flows back.

  Args: models, params: as in `systems.generation`; prepared: its Prepared; lists: ListConfig in the units of the
    market; options: config.align; rng: a key.
  """
  params, prepared = jax.lax.stop_gradient((params, prepared))
  request, table = prepared.request, prepared.table
  sample_rng, search_rng = jax.random.split(rng)
  decoder = generation.decoder(models, params, prepared.memory, lists.list_length * table.codes.shape[-1])
  items = slate.sampled(
    decoder, table, request.bid, prepared.prior, lists, sample_rng, temperature=options.temperature
  )  # [B, 1, K]
  creatives = best_creatives(params, prepared)
  objective = generation.objective(params["market"])
  belief = jnp.exp(jnp.max(jax.nn.log_sigmoid(prepared.alone["poi"]), axis=-1))
  worth = jnp.where(table.is_ad, request.bid * belief, -jnp.inf)[:, None]
  every = jnp.asarray(_every_move(lists.list_length))
  ranks = min(RANKS, worth.shape[-1])

  def better(items, rng):
    tried = jax.random.choice(rng, every[1:], (min(options.moves, len(every)) - 1,), replace=False)
    found = neighbours(items, worth, table.is_ad, table.valid, jnp.concatenate([every[:1], tried]), ranks)[:, 0]
    score = list_scores(models, params, request, found, creatives, objective)
    best = jnp.argmax(score, axis=-1)[:, None]
    return jnp.take_along_axis(found, best[..., None], axis=1), (score[:, 0], jnp.max(score, axis=-1))

  items, (before, after) = jax.lax.scan(better, items, jax.random.split(search_rng, options.rounds))
  return items[:, 0], after[-1], after[-1] - before[0]


def _every_move(length):
  """Returns i32[moves, 3]: to stay, every swap, every slot given to the next organic item or to one of RANKS ads."""
  return moves(length, 1 + length * (length - 1) // 2 + length * (1 + RANKS), length - 1)


def list_scores(models, params, request, items, creatives, objective):
  """Returns score(Y) f32[B, U], in money, by the reward model and the logged bids.

  Args: models, params, request: as in `systems.generation`; items i32[B, U, K]; creatives i32[B, C], that of each
    candidate; objective: slate.Objective.
  """
  place, present = jnp.maximum(items, 0), items >= 0
  shown = jnp.where(present, take_rows(creatives, place), -1)
  theta = generation.click_probabilities(models, params, request, items, shown)
  bids, is_ad = take_rows(request.bid, place), take_rows(request.is_ad, place)
  return slate.list_score(theta, bids, is_ad, objective, where=present)


def best_creatives(params, prepared):
  """Returns i32[B, C]: the creative of each candidate that the reward model prefers, by both clicks; 0 for padding."""
  own = params["catalog"].poi_creatives[jnp.maximum(prepared.request.candidates, 0)]
  best = jnp.argmax(creative_belief(prepared.alone), axis=-1)
  return jnp.maximum(jnp.take_along_axis(own, best[..., None], axis=-1)[..., 0], 0)


def creative_distance(models, params, prepared, items, states, sharpness):
  """Returns f32[B]: mean cross-entropy of the creative chain (EGA Eq. 28) to the reward model's choice of creative.

  Over the entries of items i32[B, K], whose states f[B, K, d] the chain follows.

  The labels are soft: softmax of the reward model's log-odds of a POI click plus a creative click for each own
  creative, times `sharpness`. models, params: as in `systems.generation`; prepared: its Prepared, with a reward model's
  `alone`.
  """
  pois = jnp.maximum(take_rows(prepared.request.candidates, jnp.maximum(items, 0)), 0)
  own = params["catalog"].poi_creatives[pois]  # [B, X, R]
  exists = (own >= 0) & (items >= 0)[..., None]
  worth = take_rows(creative_belief(prepared.alone), jnp.maximum(items, 0))
  label = jax.nn.softmax(jnp.where(exists, sharpness * worth, -1e9), axis=-1)
  scores = creative_scores(models, params, states, own, worth)
  log_q = jax.nn.log_softmax(jnp.where(exists, scores, -1e9), axis=-1)  # among own creatives, as generation chooses
  loss = -jnp.sum(jnp.where(exists, label * log_q, 0.0), axis=-1)
  return jnp.sum(loss, axis=-1) / jnp.maximum(jnp.sum(items >= 0, axis=-1), 1)
