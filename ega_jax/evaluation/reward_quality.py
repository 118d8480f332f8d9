"""How good the reward model is on logged test lists: AUC, log loss and calibration, beside the true probabilities'."""

import os

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.data.pipeline import eval_batches
from ega_jax.data.world import World
from ega_jax.evaluation import ranking
from ega_jax.stages import recipe
from ega_jax.stages.batches import LIST, REQUEST
from ega_jax.types import Request

BATCH = 256


def evaluator(config, params):
  """Returns (batch, slate) -> {"poi", "creative", "conversion"}: the reward model's probabilities f32[B, G, K]."""
  models = recipe.build_models(config, recipe.data_sizes(config.data))

  @jax.jit
  def predict(params, request, items, creatives):
    logits = models.reward.apply({"params": params["reward"]}, request, params["catalog"], items, creatives)
    return {name: jnp.where(items >= 0, jax.nn.sigmoid(logit), 0.0) for name, logit in logits.items()}

  def believe(batch, slate):
    request = jax.tree.map(jnp.asarray, Request.from_batch(batch))
    return predict(params, request, jnp.asarray(slate.items), jnp.asarray(slate.creatives))

  return believe


def quality(config, params, split="test"):
  """Returns {"model", "truth": ranking.click_quality, "calibrated", "beats_truth", "calibration": curve} of a split's
  logs.

  No model can have a greater AUC than the true probabilities but by chance: beats_truth says that data leak.

  Args: config: the experiment's, whose data hold the truth; params: with "catalog" and a fitted "reward".
  """
  models = recipe.build_models(config, recipe.data_sizes(config.data))

  @jax.jit
  def predict(params, batch):
    items, creatives = batch["shown_item"][:, None], batch["shown_creative"][:, None]
    logits = models.reward.apply(
      {"params": params["reward"]}, Request.from_batch(batch), params["catalog"], items, creatives
    )
    return jax.nn.sigmoid(logits["poi"][:, 0])

  columns = (*REQUEST, *LIST, "row")
  probability, kept = [], []
  for batch in eval_batches(config.data, split, BATCH, columns=columns):
    where = batch.pop("where")
    probability.append(np.asarray(predict(params, {key: jnp.asarray(value) for key, value in batch.items()}))[where])
    kept.append({key: batch[key][where] for key in ("row", "shown_item", "shown_creative", "click", "is_ad")})
  probability = np.concatenate(probability)
  logs = {key: np.concatenate([block[key] for block in kept]) for key in kept[0]}
  shown = logs["shown_item"] >= 0
  is_ad = np.take_along_axis(logs["is_ad"], np.maximum(logs["shown_item"], 0), axis=1)
  world = World.load(os.path.join(config.data, "truth", "world.npz"))
  truth = world.click_probabilities(logs["row"], logs["shown_item"], logs["shown_creative"])[0]
  report = ranking.click_quality(probability, logs["click"], is_ad, where=shown)
  curve = ranking.calibration_curve(probability, logs["click"], where=shown)
  bound = ranking.click_quality(truth, logs["click"], is_ad, where=shown)
  return {
    "model": report,
    "truth": bound,
    "calibrated": ranking.calibrated(report),
    "beats_truth": bool(report["auc"] > bound["auc"] + 3 * bound["auc/standard_error"]),
    "calibration": {key: value.tolist() for key, value in curve.items()},
  }
