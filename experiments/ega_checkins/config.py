"""EGA and its baselines on a city's check-ins: see README.md beside this file."""

from ega_jax.stages import recipe
from ega_jax.stages.defaults import base_config


def get_config():
  """Returns EGA at size `small`: 3 codes of 64 and a suffix, K = 10, N_S = 64."""
  config = base_config()
  config.data = "runs/checkins/data"
  config.policy.rollout = "group"
  config.policy.learning_rate = 3e-4
  config.policy.steps = 200
  config.policy.exchange_rate = 0.75  # this and the next: BUILD_NOTES.md, "EGA's own objective"
  config.policy.virtual_share = 0.15
  config.pretrain.steps = 500
  config.evaluation.requests = 3000
  config.evaluation.fine_load_requests = 1600  # .01 of ad share is .05 of welfare
  config.evaluation.equilibrium_requests = 128  # MCA+R's g is .76 and .69 in two seeds from 64
  return config


def stages(config, workdir):
  """Returns the stages that launch.train runs."""
  return recipe.stages(config, workdir)
