"""Auctions of several items learned by gradient, as a stage of launch.train: README.md beside this file."""

import jax
import ml_collections

from ega_jax.evaluation.additive_auction import check_sizes, grade
from ega_jax.stages.additive_auction import auction_of, auction_stage, network_of
from ega_jax.stages.recipe import process


def get_config():
  """Returns the settings of two bidders and two items."""
  return ml_collections.ConfigDict(
    {
      "seed": 0,
      "num_bidders": 2,
      "num_items": 2,
      "network": "exchangeable",  # or "regret_net", of hidden 100 and layers 2
      "hidden": 32,
      "layers": 3,
      "profiles": 16384,  # drawn once; 640,000 in both papers' code
      "batch_size": 256,
      "steps": 10000,
      "learning_rate": 1e-3,
      "misreport_steps": 5,  # a visit, from the best ones so far; 25 in RegretNet, 50 in RegretFormer
      "misreport_rate": 0.1,
      "rule": "budget",  # or "lagrangian"
      "multiplier": 5.0,  # at the start; RegretFormer 1
      "multiplier_step": 0.01,  # of "lagrangian"
      "penalty": 1.0,  # of "lagrangian"
      "budget_step": 0.01,  # of "budget"; RegretFormer .5, with its gradients clipped
      "budget_start": 1e-2,  # regret per unit of revenue, of "budget"
      "budget_end": 1e-3,
      "grade": {"profiles": 100000, "grid_profiles": 1000, "ascent_profiles": 200, "seed": 10000},
    }
  )


def stages(config, workdir):
  """Returns the one stage, which ends by grading the auction on fresh profiles."""
  del workdir
  network, options = network_of(config), config.grade
  sizes = {"grid_profiles": options.grid_profiles, "ascent_profiles": options.ascent_profiles}
  check_sizes(config.num_items, options.profiles, **sizes)  # before training, not after it

  def evaluate(params):
    # Never a training key, nor that of the search's starts: those are folded from the stage's name, and split.
    key = jax.random.fold_in(jax.random.key(options.seed), 0)
    values = jax.random.uniform(key, (options.profiles, config.num_bidders, config.num_items))
    return grade(auction_of(network, params["network"]), values, seed=options.seed, **sizes)

  return [auction_stage(config, evaluate=evaluate, process=process())]
