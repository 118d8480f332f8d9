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
  """Returns {"machine", "peak_flops", "rows"}.

  Raises:
    FloatingPointError: the two do not take the same steps. ValueError: jax runs on an accelerator, the peer on a CPU.
  """
  if jax.default_backend() != "cpu":
    raise ValueError(f"jax runs on {jax.default_backend()}, the peer on a CPU; allowed: JAX_PLATFORMS=cpu")
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
  _check_same_steps(jax.jit(step), state, trainer, [batch, *(next(batches) for _ in range(2))])
  held = {"state": state}

  def ours():
    held["state"], metrics = compiled(held["state"], next(batches))
    return float(metrics["loss"])

  found = timing.in_turn(ours, lambda: trainer.step(torch.tensor(next(batches)["row"]).long()), seconds)
  return found | {"flops": flops, "share_of_peak": flops / peak / (found["ours_ms"] / 1e3)}


def _check_same_steps(step, state, trainer, batches):
  """Raises FloatingPointError unless both take the same steps: each one's loss, and the state that they leave."""
  for at, batch in enumerate(batches):
    state, metrics = step(state, batch)
    _same(f"loss of step {at + 1}", float(metrics["loss"]), trainer.step(torch.tensor(batch["row"]).long()))
  _same("multiplier", state.params["multiplier"], trainer.multiplier)
  rows = np.concatenate([batch["row"] for batch in batches])
  moved = np.abs(np.asarray(state.params["misreports"])[rows] - trainer.misreports.numpy()[rows])
  # A tie between two points may go either way by the last bit; a peer without a cache differs in nearly all.
  _same("share of cached misreports that differ", np.mean(moved > 1e-2), 0.0, atol=0.02)
  bias = state.params["network"]["payment_out"]["bias"]
  _same("last bias", bias, trainer.network.payment[-1].bias.detach().numpy(), atol=1e-4)


def _same(what, ours, other, rtol=1e-3, atol=1e-5):
  if not np.allclose(ours, other, rtol=rtol, atol=atol):
    raise FloatingPointError(f"{what}: {ours} here, {other} in PyTorch")
