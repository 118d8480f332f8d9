"""Stage 4: policy gradient by marginal contributions (EGA Eq. 31-32) or within a group, the reward model frozen."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from ega_jax.decoding import slate
from ega_jax.decoding.lists import ListConfig
from ega_jax.losses.policy import leave_one_out, marginal_contribution, policy_gradient_loss
from ega_jax.models.ega_config import LIST
from ega_jax.stages.batches import logged
from ega_jax.stages.market import balanced_price
from ega_jax.systems import generation
from ega_jax.systems.choice import Options, score_bids, token_bids
from ega_jax.systems.creatives import list_creatives
from ega_jax.systems.ega import EGASystem
from ega_jax.training.stage import Stage
from ega_jax.types import Request


def policy_stage(
  config, models, lists: ListConfig, *, name="policy", source="align", bid_free=False, process=(0, 1)
) -> Stage:
  """Returns the stage that moves the generator towards lists of a high score(Y).

  `config.policy.rollout` "greedy" is the paper's: per request one rollout Y and, for each of its items, the greedy
  rollout without that item; the difference of their scores is the item's marginal contribution. "sampled" draws Y from
  z. "group" draws several lists, each of which is judged by the others (`losses.policy.leave_one_out`).

  Args:
    config: the experiment's config. models: generation.Models. lists: ListConfig.
    name: of the stage. source: the stage whose params it starts from.
    bid_free: lists are decoded from the ads' expected values instead of their bids, which only the score sees.
    process: (index, count): which rows this process reads.

  Raises: ValueError for another rollout.
  """
  options = config.policy
  if options.rollout not in ("greedy", "sampled", "group"):
    raise ValueError(f"config.policy.rollout is {options.rollout!r}; allowed: 'greedy', 'sampled', 'group'")
  virtual = 0.0 if bid_free else options.virtual_share
  served = Options(bid_free=bid_free, value_sigma=config.value_sigma, virtual=virtual)

  def init(rng, previous):
    del rng
    keep = ("catalog", "ids", "generator", "reward", "market")
    kept = {key: previous[source][key] for key in keep}
    if not bid_free:  # bid-free lists are those of other systems than EGA, too
      kept["market"] = dict(kept["market"], organic_weight=options.exchange_rate * kept["market"]["organic_weight"])
    return kept

  def loss(params, batch, rng):
    request = Request.from_batch(batch)
    prepared = generation.prepare(models, params, request)
    scale = params["market"]["bid_scale"]
    worth = score_bids(served, request, request.bid)
    bids = generation.expected_bids(request, config.value_sigma) if bid_free else token_bids(served, worth)
    scaled = dataclasses.replace(generation.in_market(lists, params["market"]), max_prefixes=0)
    scaled = dataclasses.replace(scaled, bid_cell=1.0) if bid_free else scaled
    rollout = _leave_one_out if options.rollout == "group" else _marginal_contributions
    fixed = jax.lax.stop_gradient((params, prepared, bids, worth))
    items, advantage, score = rollout(models, *fixed, scaled, rng, options)

    def log_z_of(items):
      codes = generation.list_codes(prepared.table, items)
      logits, _ = generation.apply(models.generator, params["generator"], "decode", prepared.memory, codes, LIST)
      return slate.list_log_z(
        logits, prepared.table, items, bids, prepared.prior, scaled, temperature=_temperature(options)
      )

    log_z = jax.vmap(log_z_of, in_axes=1, out_axes=1)(items)
    shown, lists_each = items >= 0, items.shape[1]
    flat = lambda a: a.reshape(len(a), -1)
    reward = flat(advantage) / (lists_each * scale)
    total, weight, metrics = policy_gradient_loss(flat(log_z), reward, where=flat(shown))
    ad = _at(request.is_ad, items) & shown
    rows = jnp.float32(len(items))
    metrics |= {"score": (jnp.sum(score.mean(1)), rows), "ad_share": (jnp.sum(ad), jnp.sum(shown))}
    return total, weight, metrics

  def finish(params, previous):
    del previous
    system = EGASystem(name, models, params, lists, served)
    # EGA's payments are learned at this price; the rows of bid-free lists set theirs again.
    return generation.at_slot_price(params, balanced_price(config, system, roughly=bid_free))

  return Stage(
    name=name,
    needs=(source,),
    finish=finish,
    init=init,
    loss=loss,
    batches=logged(config, options.batch_size, (), salt=4, process=process),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(options.learning_rate)),
    trainable=options.trainable,
    num_steps=options.steps,
  )


def _temperature(options):
  """Returns at which temperature lists are drawn, and their log probability taken: 1 for greedy rollouts."""
  return 1.0 if options.rollout == "greedy" else options.temperature


def _marginal_contributions(models, params, prepared, bids, worth, lists, rng, options):
  """Returns (Y i32[B, 1, K], r f32[B, 1, K], score(Y) f32[B, 1]), r_i = score(Y) - score(Y without i), EGA Eq. 31.

  bids f32[B, C] weigh tokens, worth f32[B, C] is what the score counts per click. Y is greedy, or drawn if
  options.rollout is "sampled"; Y without i is greedy, of all candidates but i.
  """
  table, decoder = prepared.table, _decoder(models, params, prepared, lists)
  if options.rollout == "greedy":
    base = slate.greedy(decoder, table, bids, prepared.prior, lists)
  else:
    base = slate.sampled(decoder, table, bids, prepared.prior, lists, rng, temperature=options.temperature)
  position = jnp.arange(table.valid.shape[1])
  masked = base[:, 0, :, None] == position  # [B, K, C]: variant j drops the j-th shown item
  without = slate.greedy(decoder, table, bids, prepared.prior, lists, masked)
  score = _scores(models, params, prepared, jnp.concatenate([base, without], axis=1), worth)
  return base, marginal_contribution(score[:, 0], score[:, 1:])[:, None], score[:, :1]


def _leave_one_out(models, params, prepared, bids, worth, lists, rng, options):
  """Returns (lists i32[B, J, K], advantage f32[B, J, K], score f32[B, J]) of J = options.samples drawn lists, the
  advantage of every item of a list being what its list scores above the mean of the others.

  bids, worth: as in `_marginal_contributions`.
  """
  table, decoder = prepared.table, _decoder(models, params, prepared, lists)
  all_there = jnp.zeros((table.valid.shape[0], options.samples, table.valid.shape[1]), bool)
  items = slate.sampled(decoder, table, bids, prepared.prior, lists, rng, all_there, temperature=options.temperature)
  score = _scores(models, params, prepared, items, worth)
  return items, jnp.broadcast_to(leave_one_out(score)[..., None], items.shape), score


def _decoder(models, params, prepared, lists):
  """Returns the cached decoder of whole lists."""
  return generation.decoder(models, params, prepared.memory, lists.list_length * prepared.table.codes.shape[-1])


def _scores(models, params, prepared, items, worth):
  """Returns score(Y) f32[B, J] by the reward model of lists i32[B, J, K]; worth f32[B, C] counts per click."""
  request = prepared.request
  creatives = list_creatives(models, params, prepared, items)
  theta = generation.click_probabilities(models, params, request, items, creatives)
  objective = generation.objective(params["market"])
  return slate.list_score(theta, _at(worth, items), _at(request.is_ad, items), objective, where=items >= 0)


def _at(row, items):
  """Returns [B, J, K]: the values of a row [B, C] of candidates at items i32[B, J, K]; of an absent item, any."""
  return jax.vmap(lambda values, index: values[index])(row, jnp.maximum(items, 0))
