"""Stage 3: the permutation-aware reward model on logged lists (EGA Eq. 18-20, 30), calibrated on unseen logs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ega_jax.data.pipeline import eval_batches, rows_of_folds
from ega_jax.losses.reward import members_click_loss
from ega_jax.models.calibration import fit_calibration
from ega_jax.stages.batches import LIST, REQUEST, logged, main_folds
from ega_jax.stages.market import market_constants
from ega_jax.stages.ranker import example_request
from ega_jax.training.stage import Stage
from ega_jax.types import Request

BATCH = 256
CALIBRATION = 20_000  # training requests to calibrate on, at most


def reward_stage(config, models, *, name="reward", source="tokenizer", folds=None, process=(0, 1)) -> Stage:
  """Returns the stage that fits the click model of lists; it ends with leaves "reward" and "market".

  Args:
    config: the experiment's config. models: generation.Models. name: of the stage.
    source: the stage whose catalogue and ids are kept.
    folds: of requests to learn from, as often as the main ones are in `config.reward.steps`; None: the main ones. A
      model of the held-back folds judges choices on validation.
    process: (index, count): which rows this process reads.
  """
  options, main = config.reward, main_folds(config)
  folds = main if folds is None else folds
  steps = max(options.steps * len(folds) // len(main), 1)

  def init(rng, previous):
    request = Request.from_batch(example_request(config))
    items = jnp.zeros((1, 1, config.list_length), jnp.int32)
    kept = {key: previous[source][key] for key in ("catalog", "ids")}
    fresh = models.reward.init(rng, request, kept["catalog"], items, items)["params"]
    market = {"bid_scale": jnp.float32(1.0), "organic_weight": jnp.float32(1.0), "slot_price": jnp.float32(0.0)}
    return {**kept, "reward": fresh, "market": market}

  def loss(params, batch, rng):
    request = Request.from_batch(batch)
    items, creatives = batch["shown_item"][:, None], batch["shown_creative"][:, None]
    logits = models.reward.apply(
      {"params": params["reward"]}, request, params["catalog"], items, creatives, deterministic=False,
      each=True, rngs={"dropout": rng},
    )  # fmt: skip
    logits = {key: value[:, :, 0] for key, value in logits.items()}  # [members, B, K]
    labels = {"poi": batch["click"], "creative": batch["creative_click"], "conversion": batch["conversion"]}
    labels |= {"poi_alone": batch["click"], "creative_alone": batch["creative_click"]}
    return members_click_loss(logits, labels, batch["shown_item"] >= 0)

  def finish(params, previous):
    del previous
    calibration = fit_calibration(*unseen_logits(config, models, params, folds))
    reward = {**params["reward"], "calibration": {key: jnp.asarray(leaf) for key, leaf in calibration.items()}}
    params = {**params, "reward": reward}
    return {**params, "market": {**params["market"], **market_constants(config, models, params)}}

  schedule = optax.warmup_cosine_decay_schedule(0.0, options.learning_rate, steps // 20, steps)
  return Stage(
    name=name,
    needs=(source,),
    init=init,
    loss=loss,
    batches=logged(config, options.batch_size, LIST, folds=folds, salt=3, process=process),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=options.weight_decay)),
    trainable="^reward/(?!calibration)",
    num_steps=steps,
    finish=finish,
  )


def unseen_logits(config, models, params, folds):
  """Returns (logits, clicks, is_ad, where), each [n, K], of logged lists that the model was not fitted to.

  They are validation's and those of training's other folds: on validation alone a position has some 300 clicks (New
  York), and its level would be known to 6%.

  Args:
    params: the model is not calibrated so far.
    folds: of training requests that it was fitted to.
  """

  @jax.jit
  def predict(params, batch):
    items, creatives = batch["shown_item"][:, None], batch["shown_creative"][:, None]
    request = Request.from_batch(batch)
    logits = models.reward.apply({"params": params["reward"]}, request, params["catalog"], items, creatives)
    is_ad = jnp.take_along_axis(request.is_ad, jnp.maximum(items[:, 0], 0), axis=1)
    return logits["poi"][:, 0], batch["click"], is_ad, batch["where"][:, None] & (items[:, 0] >= 0)

  columns, others = REQUEST + LIST, np.setdiff1d(np.arange(10), folds)
  batches = [eval_batches(config.data, "validation", BATCH, columns=columns)]
  if len(others):
    rows = rows_of_folds(config.data, "train", others)
    rows = rows[:: max(-(-len(rows) // CALIBRATION), 1)]
    batches.append(eval_batches(config.data, "train", BATCH, columns=columns, rows=rows))
  blocks = [predict(params, batch) for batch in itertools.chain(*batches)]
  return tuple(np.concatenate([np.asarray(block[i]) for block in blocks]) for i in range(4))
