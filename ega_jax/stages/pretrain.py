"""Stage 2: the generator learns what users do next: POIs and creatives (EGA Eq. 13-17, 27-29).

Two prompts share the weights. "next visits": the POIs visited after the request, over the whole catalogue. "list": the
items clicked in the logged list, among those shown, so that what the logging policy chose is not learned as taste.
"""

import jax
import jax.numpy as jnp
import optax

from ega_jax.decoding import slate
from ega_jax.decoding.lists import ListConfig
from ega_jax.losses import generation as losses
from ega_jax.models.ega_config import LIST as LIST_TASK
from ega_jax.models.ega_config import NEXT_VISITS
from ega_jax.models.encoder import hide_clicks, hide_time
from ega_jax.models.features import visit_gap
from ega_jax.stages import habits, trust
from ega_jax.stages.batches import LIST, logged, main_folds
from ega_jax.systems import generation
from ega_jax.systems.next_visits import catalogue_table, visit_prior
from ega_jax.training.stage import Stage
from ega_jax.training.writers import Progress
from ega_jax.types import CandidateTable, Request

COLUMNS = (*LIST, "target_poi")


def pretrain_stage(config, models, *, name="pretrain", source="tokenizer", process=(0, 1)) -> Stage:
  """Returns the stage that fits the generator: L_pre = L_NTP + L_MTP (EGA Eq. 29), unweighted.

  `config.pretrain.normaliser`: "vocabulary" is the paper's softmax over all codes of a level; "legal" sums only over
  codes that lead to an item, with the item prior, as decoding does.

  Args: config: the experiment's config; models: generation.Models; name: of the stage; source: the stage whose
    catalogue and ids are kept; process: (index, count): which rows this process reads.
  Raises: ValueError for another normaliser.
  """
  options = config.pretrain
  if options.normaliser not in ("legal", "vocabulary"):
    raise ValueError(f"config.pretrain.normaliser is {options.normaliser!r}; allowed: 'legal', 'vocabulary'")

  def init(rng, previous):
    kept = {key: previous[source][key] for key in ("catalog", "ids")}
    generator = dict(init_generator(rng, models.generator, kept["catalog"], kept["ids"]))
    if models.generator.config.item_prior:  # start from the prior, which knows the counts: random logits would drown it
      generator["poi_head"] = jax.tree.map(jnp.zeros_like, generator["poi_head"])
    return {**kept, "generator": generator}

  def loss(params, batch, rng):
    request = Request.from_batch(batch)
    # A burst of visits is nearly one: each counts by the time since the one before.
    share = jnp.clip(visit_gap(request) / options.full_gap, 0.02, 1.0) if options.full_gap else None
    encode_rng, drop_rng, time_rng, visit_rng, list_rng = jax.random.split(rng, 5)
    # Some rows lose their clicks or their time, so that both prompts also work without; both read one encoding.
    request = hide_clicks(request, jax.random.bernoulli(drop_rng, options.drop_clicks, request.user.shape))
    request = hide_time(request, jax.random.bernoulli(time_rng, options.drop_time, request.user.shape))
    memory = _encode(models, params, request, encode_rng)
    targets = batch["target_poi"][:, : options.targets]
    visits = _visit_loss(models, params, request, memory, targets, share, options, visit_rng)
    clicks, creatives = _list_losses(models, params, request, memory, batch, options, list_rng)
    parts = {"visits": visits, "clicks": clicks, "creatives": creatives}
    # Each part is a mean over its own positions; a part without any is 0.
    mean = lambda part: part[0] / jnp.maximum(part[1], 1.0)
    rows = jnp.float32(batch["user"].shape[0])
    total = options.visit_weight * mean(visits) + options.click_weight * mean(clicks) + mean(creatives)
    return total * rows, rows, {key: part[:2] for key, part in parts.items()}

  def finish(params, previous):
    del previous
    found, share = trust.trusted(config, models, habits.tuned(config, params))
    Progress(name, options.steps, options.steps).say(f"next visits follow {share:.0%} of what was learned")
    return found

  schedule = optax.warmup_cosine_decay_schedule(0.0, options.learning_rate, options.steps // 20, options.steps)
  return Stage(
    name=name,
    needs=(source,),
    init=init,
    loss=loss,
    finish=finish,
    batches=logged(config, options.batch_size, COLUMNS, folds=main_folds(config), salt=2, process=process),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=options.weight_decay)),
    trainable="^generator/",
    num_steps=options.steps,
  )


def init_generator(rng, generator, catalog, ids):
  """Returns fresh parameters (boxed with their logical axes) of the generator.

  Args: rng: a key; generator: models.ega.EGA; catalog: Catalog; ids: SemanticIds.
  """
  history, candidates = 8, 4
  zeros = lambda *shape: jnp.zeros((1, *shape), jnp.int32)
  request = Request(
    user=jnp.zeros(1, jnp.int32), place=jnp.zeros((1, 2)), hour=jnp.zeros(1, jnp.int32),
    history_poi=zeros(history), history_creative=zeros(history), history_action=zeros(history),
    history_hour=zeros(history), history_age=jnp.zeros((1, history)), successor_poi=zeros(2),
    successor_count=jnp.zeros((1, 2)), candidates=zeros(candidates), is_ad=jnp.zeros((1, candidates), bool),
    bid=jnp.zeros((1, candidates)), value_mu=jnp.zeros((1, candidates)),
  )  # fmt: skip
  levels, creative_levels = ids.poi.shape[1], ids.creative.shape[1]
  return generator.init(rng, request, ids, catalog, zeros(2, levels), zeros(2, creative_levels))["params"]


def _visit_loss(models, params, request, memory, targets, share, options, rng):
  """Returns (sum, weight) of the next visits' cross-entropy (EGA Eq. 27); the paper's form counts all rows alike."""
  codes = jnp.where(targets[..., None] >= 0, params["ids"].poi[jnp.maximum(targets, 0)], -1)
  logits = _decode(models, params, memory, codes, NEXT_VISITS, rng)[0]
  if options.normaliser == "vocabulary":
    return losses.next_token_loss(logits, codes, where=targets >= 0)[:2]
  prior = visit_prior(models, params, memory, request)
  log_p = slate.list_log_z(logits, catalogue_table(params["ids"]), targets, None, prior, ListConfig(), reuse=True)
  return losses.sequence_loss(log_p, where=targets >= 0, share=share)[:2]


def _list_losses(models, params, request, memory, batch, options, rng):
  """Returns ((sum, weight) of clicked POIs, (sum, weight) of clicked creatives' codes) (EGA Eq. 27-28)."""
  items, creatives, creative_click = _clicked_first(batch)
  table = generation.candidate_table(request, params["ids"])
  codes = generation.list_codes(table, items)
  logits, states = _decode(models, params, memory, codes, LIST_TASK, rng)
  if options.normaliser == "vocabulary":
    clicks = losses.next_token_loss(logits, codes, where=items >= 0)[:2]
  else:
    position = jnp.arange(table.valid.shape[1])
    shown = jnp.any(batch["shown_item"][..., None] == position, axis=1)
    prior = generation.item_prior(models, params, memory, request, request.candidates, request.is_ad)
    among = CandidateTable(table.codes, table.valid & shown, table.is_ad, table.organic_rank)
    log_p = slate.list_log_z(logits, among, items, None, prior, ListConfig(), reuse=True)
    clicks = losses.sequence_loss(log_p, where=items >= 0)[:2]
  own = params["ids"].creative[jnp.maximum(creatives, 0)]
  states = generation.apply(
    models.generator, params["generator"], "creative_states", memory, codes, states, deterministic=False,
    rng=jax.random.fold_in(rng, 1),
  )  # fmt: skip
  creative_logits = generation.apply(models.generator, params["generator"], "creative_logits", states, own)
  return clicks, losses.multi_token_loss(creative_logits, own, where=creative_click)[:2]


def _clicked_first(batch):
  """Returns (items, creatives i32[B, K], creative_click bool[B, K]): the clicked entries in list order, then -1."""
  clicked = (batch["click"] > 0) & (batch["shown_item"] >= 0)
  order = jnp.argsort(~clicked, axis=1, stable=True)
  take = lambda column: jnp.take_along_axis(column, order, axis=1)
  kept = take(clicked)
  items = jnp.where(kept, take(batch["shown_item"]), -1)
  creatives = jnp.where(kept, take(batch["shown_creative"]), -1)
  return items, creatives, kept & (take(batch["creative_click"]) > 0)


def _encode(models, params, request, rng):
  return generation.apply(
    models.generator, params["generator"], "encode", request, params["ids"], params["catalog"],
    deterministic=False, rng=rng,
  )  # fmt: skip


def _decode(models, params, memory, codes, task, rng):
  return generation.apply(
    models.generator, params["generator"], "decode", memory, codes, task, deterministic=False, rng=rng
  )
