"""The policy gradient scores lists by EGA's own objective."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_run
from ega_jax.decoding import slate
from ega_jax.parallel.partition import path_name
from ega_jax.stages import policy, recipe
from ega_jax.stages.policy import policy_stage
from ega_jax.systems import generation
from ega_jax.systems.choice import Options, believe, score_bids
from ega_jax.types import Request
from oracles_evaluation import score_by_loop


@pytest.mark.parametrize("bid_free", [False, True])
def test_lists_are_scored_by_mixed_bids_unless_bid_free(bid_free):
  config, models, params = (
    tiny_run.config().copy_and_resolve_references(),
    tiny_run.models(),
    tiny_run.trained()[1]["policy"],
  )
  with config.unlocked():
    config.policy.virtual_share, config.policy.rollout = 0.4, "greedy"
  batch = tiny_run.requests_of_test()
  request = Request.from_batch(batch)
  stage = policy_stage(config, models, recipe.list_config(config), bid_free=bid_free)
  found, rows = jax.jit(stage.loss)(params, batch, jax.random.key(0))[2]["score"]
  worth = score_bids(
    Options(virtual=0.0 if bid_free else 0.4, value_sigma=config.value_sigma), request, jnp.asarray(request.bid)
  )
  bids = generation.expected_bids(request, config.value_sigma) if bid_free else jnp.maximum(worth, 0.0)
  prepared = jax.jit(generation.prepare, static_argnums=0)(models, params, request)
  lists = generation.in_market(
    recipe.list_config(config, bid_cell=1.0) if bid_free else recipe.list_config(config), params["market"]
  )
  decoder = generation.decoder(models, params, prepared.memory, config.list_length * prepared.table.codes.shape[-1])
  items = jax.jit(lambda: slate.greedy(decoder, prepared.table, bids, prepared.prior, lists))()
  _, theta = believe(models, params, prepared, items)
  take = lambda row: jnp.take_along_axis(jnp.asarray(row)[:, None], jnp.maximum(items, 0), -1)
  objective = generation.objective(params["market"])
  expected = slate.list_score(theta, take(worth), take(request.is_ad), objective, where=items >= 0)
  assert float(found) == pytest.approx(float(expected.sum()), rel=1e-4) and rows == len(items)
  plain = slate.list_score(theta, take(request.bid), take(request.is_ad), objective, where=items >= 0)
  assert bid_free == (float(plain.sum()) == pytest.approx(float(expected.sum()), rel=1e-4))


def test_a_contribution_is_the_score_less_that_of_the_list_without_the_item():
  config, models, params = tiny_run.config(), tiny_run.models(), tiny_run.trained()[1]["policy"]
  batch = tiny_run.requests_of_test()
  request = Request.from_batch(batch)
  prepared = jax.jit(generation.prepare, static_argnums=0)(models, params, request)
  lists = generation.in_market(recipe.list_config(config), params["market"])
  bids = 5 * jnp.asarray(request.bid)
  options = types.SimpleNamespace(rollout="greedy")
  rollout = jax.jit(lambda: policy._marginal_contributions(models, params, prepared, bids, bids, lists, None, options))
  items, found, total = (part[:, 0] for part in rollout())
  decoder = generation.decoder(models, params, prepared.memory, config.list_length * prepared.table.codes.shape[-1])
  weight, fee = map(float, generation.objective(params["market"]))

  greedy = jax.jit(lambda masked: slate.greedy(decoder, prepared.table, bids, prepared.prior, lists, masked))

  def scores(dropped):
    """Scores of the greedy lists when candidate `dropped` i[B] of each request does not exist (-1: all do)."""
    masked = jnp.asarray(dropped)[:, None, None] == jnp.arange(bids.shape[1])
    shown = greedy(masked)
    _, theta = believe(models, params, prepared, shown)
    rows = zip(np.asarray(shown)[:, 0], np.asarray(theta)[:, 0], np.asarray(bids), batch["is_ad"], strict=True)
    return np.array([score_by_loop(*row, weight, fee) for row in rows])

  whole = scores(np.full(len(items), -1))
  np.testing.assert_allclose(total, whole, rtol=1e-4)
  for place in range(config.list_length):
    expected = whole - scores(np.asarray(items)[:, place])
    np.testing.assert_allclose(found[:, place], expected, rtol=1e-3, atol=1e-4)


def test_a_group_is_judged_by_what_its_lists_score_above_the_others():
  config, models, params = tiny_run.config(), tiny_run.models(), tiny_run.trained()[1]["policy"]
  batch = tiny_run.requests_of_test()
  request = Request.from_batch(batch)
  prepared = jax.jit(generation.prepare, static_argnums=0)(models, params, request)
  lists = dataclasses.replace(generation.in_market(recipe.list_config(config), params["market"]), max_prefixes=0)
  bids, options = jnp.asarray(request.bid), types.SimpleNamespace(samples=3, temperature=0.5)
  draw = jax.jit(lambda: policy._leave_one_out(models, params, prepared, bids, bids, lists, jax.random.key(3), options))
  items, advantage, score = draw()
  weight, fee = map(float, generation.objective(params["market"]))
  _, theta = map(np.asarray, believe(models, params, prepared, items))
  items = np.asarray(items)
  assert items.shape == (len(bids), 3, 4) and len(np.unique(items.reshape(-1, 4), axis=0)) > len(bids)
  for row in range(len(bids)):
    of_request = batch["bid"][row], batch["is_ad"][row], weight, fee
    expected = np.array([score_by_loop(items[row, j], theta[row, j], *of_request) for j in range(3)])
    np.testing.assert_allclose(score[row], expected, rtol=1e-4)
    for j in range(3):
      np.testing.assert_allclose(advantage[row, j], expected[j] - np.delete(expected, j).mean(), rtol=1e-3, atol=1e-4)


def test_a_group_moves_the_policy_and_leaves_the_reward_model():
  config = tiny_run.config().copy_and_resolve_references()
  with config.unlocked():
    config.policy.rollout, config.policy.samples = "group", 2
  stage = policy_stage(config, tiny_run.models(), recipe.list_config(config))
  params, batch = tiny_run.trained()[1]["policy"], tiny_run.requests_of_test()
  gradient = jax.jit(jax.grad(lambda params: stage.loss(params, batch, jax.random.key(1))[0], allow_int=True))(params)
  moved = {path_name(path) for path, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]
           if leaf.dtype == jnp.float32 and np.asarray(leaf).any()}  # fmt: skip
  assert any(name.startswith("generator/poi_decoder") for name in moved)
  assert not [name for name in moved if name.startswith("reward")]


def test_a_group_weighs_as_much_as_one_list_and_its_rewards_are_in_median_bids(monkeypatch):
  config = tiny_run.config().copy_and_resolve_references()
  with config.unlocked():
    config.policy.rollout, config.policy.samples = "group", 3
  items = jnp.tile(jnp.arange(4), (8, 3, 1))
  monkeypatch.setattr(policy, "_leave_one_out", lambda *args: (items, jnp.full((8, 3, 4), 5.0), jnp.zeros((8, 3))))
  monkeypatch.setattr(policy, "policy_gradient_loss", lambda log_z, reward, where: (reward.sum(), where.sum(), {}))
  stage = policy_stage(config, tiny_run.models(), recipe.list_config(config))
  params = tiny_run.trained()[1]["policy"]
  params = params | {"market": params["market"] | {"bid_scale": jnp.float32(2.5)}}
  total, shown, _ = jax.jit(stage.loss)(params, tiny_run.requests_of_test(), jax.random.key(0))
  assert shown == 8 * 3 * 4 and float(total) == pytest.approx(8 * 4 * 5.0 / 2.5, rel=1e-5)
