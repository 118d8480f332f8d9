"""Suite "auction": a step of training RegretNet, misreports included, beside the same step in PyTorch."""

import jax
import numpy as np
import torch

from ega_jax.evaluation.flops import of_function
from ega_jax.stages.additive_auction import auction_stage
from ega_jax.training.state import initial_state
from ega_jax.training.step import train_step
from experiments.differentiable_auctions.config import get_config
from launch.benchmarks import timing
from launch.benchmarks.torch_regret_net import RegretNet, Trainer

# RegretNet's published batch and ascent, and this project's, on the settings that it is graded on.
SETTINGS = {
  "RegretNet's settings, 1 x 2": {"num_bidders": 1, "num_items": 2, "batch_size": 128, "misreport_steps": 25},
  "RegretNet's settings, 2 x 2": {"num_bidders": 2, "num_items": 2, "batch_size": 128, "misreport_steps": 25},
  "RegretNet's settings, 2 x 3": {"num_bidders": 2, "num_items": 3, "batch_size": 128, "misreport_steps": 25},
  "our batch and ascent, 2 x 2": {"num_bidders": 2, "num_items": 2},
}


def run(seconds):
  """Returns {"machine", "peak_flops", "rows"}; the first loss of both is the same to rounding, or it raises."""
  torch.set_num_threads(timing.cores())
  peak = timing.peak_flops()
  rows = [{"name": name, "peer": f"PyTorch {torch.__version__}"} | _row(changes, seconds, peak)
          for name, changes in SETTINGS.items()]  # fmt: skip
  return {"machine": timing.machine(), "peak_flops": peak, "rows": rows}


def _row(changes, seconds, peak):
  config = get_config()
  config.update({"rule": "lagrangian", "network": "regret_net", "hidden": 100, "layers": 2, **changes})
  stage = auction_stage(config)
  state = jax.jit(lambda rng: initial_state(stage, rng, {}))(jax.random.key(0))
  params = jax.tree.map(np.array, state.params)
  network = RegretNet(config.num_bidders, config.num_items, config.hidden, config.layers)
  network.copy(params["network"])
  trainer = Trainer(network, torch.tensor(params["values"]), torch.tensor(params["misreports"]), config)
  step = lambda state, batch: train_step(stage, state, batch)
  batches = iter(stage.batches({}))
  batch = next(batches)
  flops = of_function(step, state, batch)
  compiled = jax.jit(step, donate_argnums=0)
  held = {"state": state}

  def ours():
    held["state"], metrics = compiled(held["state"], next(batches))
    return float(metrics["loss"])

  mine, other = float(jax.jit(step)(state, batch)[1]["loss"]), trainer.step(torch.tensor(batch["row"]).long())
  if not np.isclose(mine, other, rtol=1e-3, atol=1e-5):
    raise FloatingPointError(f"the two losses of one step differ: {mine} here, {other} in PyTorch")
  found = timing.in_turn(ours, lambda: trainer.step(torch.tensor(next(batches)["row"]).long()), seconds)
  return found | {"flops": flops, "share_of_peak": flops / peak / (found["ours_ms"] / 1e3)}
