"""The stage of learned auctions: what a step writes, and what it refuses."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ega_jax.evaluation.additive_auction import grade
from ega_jax.losses import misreports as misreports_lib
from ega_jax.stages.additive_auction import auction_of, auction_stage, network_of
from ega_jax.training.state import initial_state
from ega_jax.training.step import train_step

FILE = Path(__file__).resolve().parents[2] / "experiments/differentiable_auctions/config.py"


def _experiment():
  spec = importlib.util.spec_from_file_location("differentiable_auctions", FILE)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _config(**changes):
  config = _experiment().get_config()
  small = {"num_bidders": 2, "num_items": 2, "hidden": 8, "layers": 1, "profiles": 64, "batch_size": 16, "steps": 50}
  config.update(small | changes)
  return config


def _one_step(config):
  """Returns (params before, params after, batch rows, metrics) of one step."""
  stage = auction_stage(config)
  state = jax.jit(lambda rng: initial_state(stage, rng, {}))(jax.random.key(0))
  batch = next(iter(stage.batches({})))
  after, metrics = jax.jit(lambda state, batch: train_step(stage, state, batch))(state, batch)
  return state.params, after.params, batch["row"], metrics


def test_a_step_writes_the_misreports_found_for_its_rows_and_no_others():
  config = _config()
  before, after, rows, _ = _one_step(config)
  auction = auction_of(network_of(config), before["network"])
  values = before["values"][rows]
  utility = lambda found: misreports_lib.misreport_utility(auction, values, found)
  found, _ = misreports_lib.ascend_misreports(
    utility, before["misreports"][rows], config.misreport_steps, config.misreport_rate
  )
  np.testing.assert_allclose(after["misreports"][rows], found, atol=1e-5)
  assert np.abs(found - before["misreports"][rows]).max() > 0.05
  others = np.setdiff1d(np.arange(config.profiles), rows)
  np.testing.assert_array_equal(after["misreports"][others], before["misreports"][others])
  np.testing.assert_array_equal(after["values"], before["values"])


def test_the_lagrangian_multiplier_of_a_bidder_rises_by_its_own_regret():
  config = _config(rule="lagrangian", multiplier_step=0.5)
  before, after, rows, _ = _one_step(config)
  auction = auction_of(network_of(config), before["network"])
  regret = misreports_lib.misreport_regret(auction, before["values"][rows], after["misreports"][rows])
  expected = before["multiplier"] + 0.5 * regret.mean(0)
  np.testing.assert_allclose(after["multiplier"], expected, rtol=1e-4)
  assert (after["multiplier"] > before["multiplier"]).any()


def test_the_budgeted_multiplier_follows_its_rule_and_the_budget_falls_to_its_end():
  config = _config(rule="budget", budget_step=0.5, steps=3, budget_start=1e-2, budget_end=1e-3)
  before, after, _, metrics = _one_step(config)
  per_bidder = float(metrics["revenue"]) / config.num_bidders
  ratio = np.log(float(metrics["regret"]) / per_bidder)
  expected = np.maximum(0.0, config.multiplier + 0.5 * (ratio - np.log(1e-2)))
  np.testing.assert_allclose(after["multiplier"], expected, rtol=1e-4)
  np.testing.assert_allclose(after["budget"], 1e-2 * 10**-0.5, rtol=1e-4)  # at its end after two steps of three


def test_the_network_moves_by_revenue_and_regret_at_the_misreports_found_and_by_no_more():
  config = _config(rule="lagrangian", penalty=2.0)
  before, after, rows, metrics = _one_step(config)
  network, values, found = network_of(config), before["values"][rows], after["misreports"][rows]

  def loss(weights):  # -revenue + lambda . rgt + rho/2 rgt^2, a bidder's regret averaged first, all over the bidders
    auction = auction_of(network, weights)
    regret = misreports_lib.misreport_regret(auction, values, found).mean(0)
    revenue = auction(values)[1].mean()
    return -revenue + (before["multiplier"] * regret + 0.5 * config.penalty * regret**2).mean()

  np.testing.assert_allclose(metrics["loss"], loss(before["network"]), rtol=1e-5)
  optimizer = optax.adam(config.learning_rate)  # its first step is the rate times the gradient's sign
  updates, _ = optimizer.update(jax.grad(loss)(before["network"]), optimizer.init(before["network"]))
  expected = optax.apply_updates(before["network"], updates)
  for one, other in zip(jax.tree.leaves(after["network"]), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_processes_of_the_experiment_read_different_profiles(monkeypatch):
  config, rows = _config(), []
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  for process in (0, 1):
    monkeypatch.setattr(jax, "process_index", lambda process=process: process)
    (stage,) = _experiment().stages(config, None)
    rows.append(next(iter(stage.batches({})))["row"])
  assert not set(rows[0]) & set(rows[1])
  assert sum(map(len, rows)) == config.batch_size


def test_a_bidder_with_two_items_learns_to_pay_about_the_optimum():
  config = _config(num_bidders=1, network="regret_net", hidden=32, profiles=1024, batch_size=128, steps=800,
                   learning_rate=5e-3, budget_start=0.05, budget_end=0.01, budget_step=0.1)  # fmt: skip
  stage = auction_stage(config)
  state = jax.jit(lambda rng: initial_state(stage, rng, {}))(jax.random.key(0))
  step, batches = jax.jit(lambda state, batch: train_step(stage, state, batch)), iter(stage.batches({}))
  for _ in range(config.steps):
    state, _ = step(state, next(batches))
  values = np.random.default_rng(1).uniform(size=(4000, 1, 2)).astype(np.float32)
  figures = grade(auction_of(network_of(config), state.params["network"]), values, grid_profiles=50, ascent_profiles=2)
  assert 0.45 < figures["revenue"] < 0.6  # the optimum of incentive compatible auctions is .5492
  assert figures["regret"] < 0.03 and figures["ir_violations"] == 0


@pytest.mark.parametrize("rule", ["lagrangian", "budget"])
def test_training_lowers_the_regret_of_an_untrained_network(rule):
  config = _config(rule=rule, steps=150, learning_rate=1e-2, multiplier=30.0)
  stage = auction_stage(config)
  state = jax.jit(lambda rng: initial_state(stage, rng, {}))(jax.random.key(0))
  step = jax.jit(lambda state, batch: train_step(stage, state, batch))
  batches, seen = iter(stage.batches({})), []
  for _ in range(config.steps):
    state, metrics = step(state, next(batches))
    seen.append(float(metrics["regret"]))
  assert np.mean(seen[-20:]) < 0.5 * np.mean(seen[:20])
  assert jnp.isfinite(metrics["loss"])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"profiles": 100, "batch_size": 16}, "config.profiles is 100; it must be a multiple of batch_size, 16"),
    ({"num_bidders": 0}, "config.num_bidders is 0; it must be at least 1"),
    ({"rule": "penalty"}, "config.rule is 'penalty'; allowed: lagrangian, budget"),
    ({"budget_end": 0.0}, "config.budget_end is 0.0; it must be positive and finite"),
    ({"budget_end": 0.1}, "config.budget_end is 0.1; allowed: up to budget_start, 0.01"),
    ({"multiplier": float("nan")}, "config.multiplier is nan; it must be at least 0 and finite"),
    ({"network": "transformer"}, "network is 'transformer'"),
  ],
)
def test_bad_settings_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    auction_stage(_config(**changes))
