"""A new loss in one function and one line: a penalty on user embeddings in pre-training.

python -m launch.prepare_data --source=world --size=tiny --output=runs/tiny
python -m launch.train --experiment=experiments/custom_loss/config.py --workdir=runs/custom_loss --config.data=runs/tiny
"""

import dataclasses

from ega_jax.stages import recipe
from ega_jax.stages.defaults import base_config


def get_config():
  """Returns EGA's config with the strength of the new term."""
  config = base_config()
  config.penalty = 0.01
  config.list_length = 4  # of --size=tiny
  return config


def penalised(loss, strength):
  """Returns `loss` plus strength * the squared norm of the user table: any function of (params, batch, rng) will do."""

  def with_term(params, batch, rng):
    total, weight, metrics = loss(params, batch, rng)
    term = (params["generator"]["history"]["user"]["table"] ** 2).sum()
    return total + strength * weight * term, weight, {**metrics, "user_norm": (term, 1.0)}

  return with_term


def stages(config, workdir):
  """Returns tokenizer and pre-training, the latter with the new loss."""
  tokenizer, pretrain, *_ = recipe.stages(config, workdir)
  return [tokenizer, dataclasses.replace(pretrain, loss=penalised(pretrain.loss, config.penalty))]
