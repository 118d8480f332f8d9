"""The whole recipe at a size of seconds: what the tests of stages, systems, baselines and binaries share."""

import dataclasses

from ega_jax.stages import recipe
from ega_jax.stages.defaults import base_config
from experiments.custom_loss.config import penalised


def get_config():
  """Returns EGA with K = 4, 8 lists, one block of width 32 and a few steps a stage."""
  config = base_config()
  config.list_length = 4
  config.model.preset = "tiny"
  config.model.history_items = 8
  config.tokenizer.update({"levels": 2, "codebook_size": 16, "creative_codebook_size": 16})
  config.tokenizer.update({"steps": 20, "batch_size": 32})
  config.pretrain.update({"steps": 40, "batch_size": 32, "learning_rate": 3e-3})
  config.reward.update({"steps": 60, "batch_size": 64, "learning_rate": 3e-3, "model": {"width": 16, "members": 2}})
  config.ranker.update({"steps": 20, "batch_size": 64})
  config.align.update({"steps": 4, "batch_size": 8, "rounds": 2, "moves": 6})
  config.policy.update({"steps": 4, "batch_size": 8})
  config.payment.update({"steps": 40, "batch_size": 16, "requests": 16, "ads": 3, "nodes": 9, "values": 4})
  config.lists.num_lists = 8
  config.sweep_prefixes = 64
  config.judge = False
  config.penalty = 0.1
  config.systems = ("popularity", "MCA", "EGA")
  config.evaluation.update(
    {"requests": 16, "priced_requests": 8, "audited_requests": 8, "unshown": 1, "refinements": 0, "nodes": 7,
     "chunk": 8, "validation_requests": 8, "equilibrium_requests": 8, "load_requests": 64, "frontier_requests": 16}
  )  # fmt: skip
  return config


def stages(config, workdir):
  """Returns the stages of the recipe, pre-training with the added term of experiments/custom_loss."""
  tokenizer, pretrain, *rest = recipe.stages(config, workdir)
  return [tokenizer, dataclasses.replace(pretrain, loss=penalised(pretrain.loss, config.penalty)), *rest]
