"""The cascade's stage: pointwise click models and two-tower recall on the same logs as the reward model."""

import jax
import jax.numpy as jnp
import optax

from ega_jax.data.pipeline import eval_batches
from ega_jax.losses.reward import members_click_loss
from ega_jax.stages.batches import LIST, REQUEST, logged, main_folds
from ega_jax.training.stage import Stage
from ega_jax.types import Request


def ranker_stage(config, ranker, *, name="ranker", source="reward", process=(0, 1)) -> Stage:
  """Returns the stage that fits `ranker` (models.ranker.Ranker) by cross-entropy of its four heads.

  It keeps the leaves of stage `source` that a cascade needs: catalogue, ids, reward model and market constants. config:
  the experiment's config; process: (index, count): which rows this process reads.
  """
  options = config.ranker

  def init(rng, previous):
    kept = {key: previous[source][key] for key in ("catalog", "ids", "reward", "market")}
    zeros = jnp.zeros((1, config.list_length), jnp.int32)
    fresh = ranker.init(rng, Request.from_batch(example_request(config)), kept["catalog"], zeros, zeros)["params"]
    return {**kept, "ranker": fresh}

  def loss(params, batch, rng):
    request = Request.from_batch(batch)
    logits = ranker.apply(
      {"params": params["ranker"]}, request, params["catalog"], batch["shown_item"], batch["shown_creative"],
      deterministic=False, each=True, rngs={"dropout": rng},
    )  # fmt: skip
    labels = {"poi": batch["click"], "creative": batch["creative_click"], "conversion": batch["conversion"]}
    return members_click_loss(logits, {**labels, "recall": batch["click"]}, batch["shown_item"] >= 0)

  schedule = optax.warmup_cosine_decay_schedule(0.0, options.learning_rate, options.steps // 20, options.steps)
  return Stage(
    name=name,
    needs=(source,),
    init=init,
    loss=loss,
    batches=logged(config, options.batch_size, LIST, folds=main_folds(config), salt=5, process=process),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=options.weight_decay)),
    trainable="^ranker/",
    num_steps=options.steps,
  )


def example_request(config):
  """Returns one training request's columns, for shapes."""
  batch = next(iter(eval_batches(config.data, "train", 1, columns=REQUEST)))
  return jax.tree.map(jnp.asarray, batch)
