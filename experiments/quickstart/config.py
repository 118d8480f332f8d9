"""The whole of EGA on the embedded marketplace: `bash launch/quickstart.sh`."""

from ega_jax.stages import recipe
from ega_jax.stages.defaults import base_config


def get_config():
  """Returns EGA at a size that two CPU cores train and evaluate in minutes."""
  config = base_config()
  config.data = "runs/quickstart/data"
  config.judge = False
  config.bid_free_policy = False
  config.systems = ("popularity", "MCA-fixed", "MCA", "MCA+R", "EGA", "oracle")
  config.lists.num_lists = 16
  config.sweep_prefixes = 384
  config.tokenizer.steps = 200
  config.model = {**config.model.to_dict(), "num_layers": 1}
  config.pretrain.steps = 150
  config.reward.steps = 200
  config.reward.model.members = 2
  config.ranker.steps = 200
  config.align.steps = 100
  config.policy.steps = 50
  config.policy.batch_size = 16
  config.policy.rollout = "group"
  config.policy.learning_rate = 3e-4
  config.payment.requests = 48
  config.payment.steps = 1000
  evaluation = config.evaluation
  evaluation.requests, evaluation.priced_requests, evaluation.audited_requests = 480, 48, 16
  evaluation.validation_requests, evaluation.equilibrium_requests, evaluation.load_requests = 64, 64, 192
  evaluation.frontier_requests = 16
  evaluation.unshown, evaluation.refinements = 2, 0
  return config


def stages(config, workdir):
  """Returns the stages that launch.train runs."""
  return recipe.stages(config, workdir)
