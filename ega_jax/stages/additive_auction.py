"""The stage that learns an auction of several items for additive bidders by revenue and ex-post regret (Duetting et
al., "Optimal Auctions through Deep Learning"; Ivanov et al. 2022, "Optimal-er Auctions through Attention").

As in both papers' code, profiles of values are drawn once and kept with the misreports found for each, where the next
ascent starts: a few steps a visit do the work of many. Ours: the best point visited is kept, not the last; cache and
multiplier are parameters (`losses.misreports.written`).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ega_jax.data.pipeline import from_arrays
from ega_jax.losses import misreports as misreports_lib
from ega_jax.losses.lagrangian import budgeted_multiplier, payment_loss
from ega_jax.models.regret_net import regret_network
from ega_jax.training.stage import Stage

RULES = ("lagrangian", "budget")


def check(config):
  """Raises ValueError naming a setting that is not allowed."""
  for name in ("num_bidders", "num_items", "hidden", "layers", "profiles", "batch_size", "steps", "misreport_steps"):
    if config[name] < 1:
      raise ValueError(f"config.{name} is {config[name]}; it must be at least 1")
  if config.profiles % config.batch_size:  # a batch with a row twice would write two misreports to it
    raise ValueError(f"config.profiles is {config.profiles}; it must be a multiple of batch_size, {config.batch_size}")
  if config.rule not in RULES:
    raise ValueError(f"config.rule is {config.rule!r}; allowed: {', '.join(RULES)}")
  for name in ("learning_rate", "misreport_rate", "budget_start", "budget_end"):
    if not 0 < config[name] < np.inf:
      raise ValueError(f"config.{name} is {config[name]}; it must be positive and finite")
  for name in ("multiplier", "multiplier_step", "budget_step", "penalty"):
    if not 0 <= config[name] < np.inf:
      raise ValueError(f"config.{name} is {config[name]}; it must be at least 0 and finite")
  if config.budget_end > config.budget_start:
    raise ValueError(f"config.budget_end is {config.budget_end}; allowed: up to budget_start, {config.budget_start}")


def network_of(config):
  """Returns the network that a config names."""
  return regret_network(config.network, config.num_bidders, config.num_items, config.hidden, config.layers)


def auction_of(network, params):
  """Returns bids f[..., n, m] -> (allocation f[..., n, m], payments f[..., n]) of a network's parameters."""
  return lambda bids: network.apply({"params": params}, bids)


def auction_stage(config, *, name="auction", evaluate=None, process=(0, 1)) -> Stage:
  """Returns the stage. Its parameters: network, values f32[profiles, n, m] in [0, 1] (never trained), misreports (as
  values), multiplier f32[n] and, for the rule "budget", budget f32[].

  Args:
    config: with the keys that `check` names.
    evaluate: of Stage.
    process: (index, count): which profiles this process reads.
  """
  check(config)
  network = network_of(config)
  shape = (config.profiles, config.num_bidders, config.num_items)
  rows = {"row": np.arange(config.profiles, dtype=np.int32)}

  def init(rng, previous):
    del previous
    net_rng, value_rng, start_rng = jax.random.split(rng, 3)
    params = {
      "network": network.init(net_rng, jnp.zeros((1, *shape[1:])))["params"],
      "values": jax.random.uniform(value_rng, shape),
      "misreports": jax.random.uniform(start_rng, shape),
      "multiplier": jnp.full(config.num_bidders, config.multiplier, jnp.float32),
    }
    return params | ({"budget": jnp.float32(config.budget_start)} if config.rule == "budget" else {})

  def loss(params, batch, rng):
    del rng
    values, starts = params["values"][batch["row"]], params["misreports"][batch["row"]]
    held = auction_of(network, jax.lax.stop_gradient(params["network"]))
    utility = lambda found: misreports_lib.misreport_utility(held, values, found)
    first = jax.lax.stop_gradient(starts)
    found, _ = misreports_lib.ascend_misreports(utility, first, config.misreport_steps, config.misreport_rate)
    auction = auction_of(network, params["network"])
    allocation, payments = auction(values)
    worth = (allocation * values).sum(-1)  # a payment is per auction: one click, for sure, worth this much
    regret = misreports_lib.misreport_regret(auction, values, jax.lax.stop_gradient(found), worth - payments)
    ruled = config.rule == "budget"
    multiplier, penalty = params["multiplier"], config.penalty
    if ruled:
      multiplier, penalty = jax.lax.stop_gradient(multiplier), 0.0
    total, weight, metrics = payment_loss(
      payments, jnp.ones_like(payments), worth, worth, regret, multiplier, penalty, square="mean"
    )
    kept = misreports_lib.written(starts, found)
    if ruled:
      kept += _budget_terms(params, regret.mean(), payments.mean(), config)
    auctions = jnp.float32(len(values))
    metrics = metrics | {"revenue": (payments.sum(), auctions), "welfare": (worth.sum(), auctions)}
    return total + weight * kept, weight, metrics

  return Stage(
    name=name,
    init=init,
    loss=loss,
    batches=lambda previous: from_arrays(
      rows, config.batch_size, config.seed, process_index=process[0], process_count=process[1]
    ),
    optimizer=optax.multi_transform(_transforms(config), _labels),
    trainable="^(network|misreports|multiplier|budget)",
    num_steps=config.steps,
    evaluate=evaluate,
  )


def _budget_terms(params, regret, revenue, config):
  """Returns the term that writes RegretFormer's multiplier and its falling budget."""
  following = jnp.maximum(config.budget_end, params["budget"] * _decay(config))
  moved = budgeted_multiplier(params["multiplier"], regret, revenue, params["budget"], step=config.budget_step)
  return misreports_lib.written(params["multiplier"], moved) + misreports_lib.written(params["budget"], following)


def _decay(config):
  """Returns the factor a step that brings the budget from its start to its end in two thirds of the steps."""
  return (config.budget_end / config.budget_start) ** (1.5 / config.steps)


def _transforms(config):
  schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
  # The loss is a mean over bidders, too, of which each has its own multiplier: Eq. 35 with a step of multiplier_step.
  ascent = optax.scale(config.multiplier_step * config.num_bidders)
  write = optax.scale(-1.0)
  multiplier = ascent if config.rule == "lagrangian" else write
  return {"network": optax.adam(schedule), "multiplier": multiplier, "misreports": write, "budget": write}


def _labels(params):
  return {name: jax.tree.map(lambda _, name=name: name, leaf) for name, leaf in params.items()}
