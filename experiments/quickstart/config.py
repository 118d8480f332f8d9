"""The whole of EGA on the embedded marketplace: `bash launch/quickstart.sh`."""

from ega_jax.stages import recipe
from ega_jax.stages.defaults import base_config


def get_config():
  """Returns EGA at the smallest size at which the comparison means something: K = 6, N_S = 16."""
  config = base_config()
  config.data = "runs/quickstart/data"
  config.list_length = 10
  config.lists.num_lists = 16
  return config


def stages(config, workdir):
  """Returns the stages that launch.train runs."""
  return recipe.stages(config, workdir)
