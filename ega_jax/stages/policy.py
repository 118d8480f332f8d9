"""Stage 4: policy gradient by marginal contributions, the reward model frozen (EGA Eq. 31-32)."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from ega_jax.decoding import slate
from ega_jax.decoding.lists import ListConfig
from ega_jax.losses.policy import marginal_contribution, policy_gradient_loss, sampled_policy_gradient_loss
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

  Per request one rollout Y and, for each of its items, the greedy rollout without that item: the difference of their
  scores is the item's marginal contribution. `config.policy.rollout` "greedy" is the paper's; "sampled" draws Y from z.

  Args:
    config: the experiment's config. models: generation.Models. lists: ListConfig.
    name: of the stage. source: the stage whose params it starts from.
    bid_free: lists are decoded from the ads' expected values instead of their bids, which only the score sees.
    process: (index, count): which rows this process reads.

  Raises: ValueError for another rollout.
  """
  options = config.policy
  if options.rollout not in ("greedy", "sampled"):
    raise ValueError(f"config.policy.rollout is {options.rollout!r}; allowed: 'greedy', 'sampled'")
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
    drawn = rng if options.rollout == "sampled" else None
    items, contribution, score = _marginal_contributions(
      models, params, prepared, bids, worth, scaled, drawn, _temperature(options)
    )
    codes = generation.list_codes(prepared.table, items)
    logits, _ = generation.apply(models.generator, params["generator"], "decode", prepared.memory, codes, LIST)
    log_z = slate.list_log_z(
      logits, prepared.table, items, bids, prepared.prior, scaled, temperature=_temperature(options)
    )
    shown = items >= 0
    policy_loss = sampled_policy_gradient_loss if options.rollout == "sampled" else policy_gradient_loss
    total, weight, metrics = policy_loss(log_z, contribution / scale, where=shown)
    ad = jnp.take_along_axis(request.is_ad, jnp.maximum(items, 0), axis=1) & shown
    rows = jnp.float32(items.shape[0])
    metrics |= {"score": (jnp.sum(score), rows), "ad_share": (jnp.sum(ad), jnp.sum(shown))}
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
  return options.temperature if options.rollout == "sampled" else 1.0


def _marginal_contributions(models, params, prepared, bids, worth, lists, rng, temperature):
  """Returns (Y i32[B, K], r f32[B, K], score(Y) f32[B]), r_i = score(Y) - score(Y without i), EGA Eq. 31.

  bids f32[B, C] weigh tokens, worth f32[B, C] is what the score counts per click.
  """
  params, prepared, bids, worth = jax.lax.stop_gradient((params, prepared, bids, worth))
  table, request = prepared.table, prepared.request
  length = lists.list_length * table.codes.shape[-1]
  decoder = generation.decoder(models, params, prepared.memory, length)
  if rng is None:
    base = slate.greedy(decoder, table, bids, prepared.prior, lists)
  else:
    base = slate.sampled(decoder, table, bids, prepared.prior, lists, rng, temperature=temperature)
  position = jnp.arange(table.valid.shape[1])
  masked = base[:, 0, :, None] == position  # [B, K, C]: variant j drops the j-th shown item
  without = slate.greedy(decoder, table, bids, prepared.prior, lists, masked)
  items = jnp.concatenate([base, without], axis=1)
  creatives = list_creatives(models, params, prepared, items)
  theta = generation.click_probabilities(models, params, request, items, creatives)
  place = jnp.maximum(items, 0)
  at = lambda row: jax.vmap(lambda values, index: values[index])(row, place)
  objective = generation.objective(params["market"])
  score = slate.list_score(theta, at(worth), at(request.is_ad), objective, where=items >= 0)
  return base[:, 0], marginal_contribution(score[:, 0], score[:, 1:]), score[:, 0]
