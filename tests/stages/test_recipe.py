"""The recipe's stages on tiny data: they train, they move what they may, and they leave what later ones need."""

import copy
import inspect
import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_run
from ega_jax.losses import payment_tables
from ega_jax.parallel.partition import logical_names, path_name, unbox
from ega_jax.stages import payment, recipe
from ega_jax.stages.payment import payment_stage
from ega_jax.systems import pricing
from ega_jax.systems.pricing import value_nodes
from ega_jax.training.structure import shapes
from experiments.custom_loss import config as custom_loss
from launch import experiment

STAGES = ("tokenizer", "pretrain", "reward", "align", "policy", "payment", "policy_bid_free", "ranker")


def _metrics(stage, name="loss"):
  workdir, _ = tiny_run.trained()
  lines = [json.loads(line) for line in (workdir / stage / "metrics.jsonl").read_text().splitlines()]
  return np.array([value for line in lines for key, value in line.items() if key.split("/")[-1] == name])


def _leaves(tree):
  return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def test_every_stage_trained_to_finite_numbers():
  _, finals = tiny_run.trained()
  assert tuple(finals) == STAGES
  for stage in STAGES:
    assert np.isfinite(_metrics(stage)).all() and len(_metrics(stage)), stage
    for name, leaf in _leaves(finals[stage]).items():
      assert leaf.dtype.kind != "f" or np.isfinite(leaf).all(), f"{stage} {name}"


@pytest.mark.parametrize("stage", ["pretrain", "reward", "ranker"])
def test_the_loss_falls(stage):
  losses = _metrics(stage)
  assert losses[-2:].mean() < losses[0]


def test_codes_are_in_range_and_paths_are_unique():
  ids = tiny_run.trained()[1]["tokenizer"]["ids"]
  assert ids.poi.shape[1] == 3 and ids.creative.shape[1] == 2
  assert ids.poi.min() >= 0 and ids.poi.max() < 16 and 0 <= ids.creative.min() and ids.creative.max() < 16
  assert len(np.unique(np.asarray(ids.poi), axis=0)) == len(ids.poi)
  assert len(np.unique(np.asarray(ids.poi)[:, 0])) > 2


@pytest.mark.parametrize("stage", ["policy", "policy_bid_free"])
def test_the_policy_gradient_moves_only_what_is_trainable(stage):
  _, finals = tiny_run.trained()
  before, after = _leaves(finals["align"]), _leaves(finals[stage])
  moved = {name for name in after if name in before and not np.array_equal(before[name], after[name])}
  fitted = {name for name in moved if name.startswith("market")} - {"market/organic_weight"}  # see the next test
  trainable = tiny_run.config().policy.trainable
  rest = moved - fitted - {"market/organic_weight"}
  assert rest and all(re.search(trainable, name) for name in rest)
  assert fitted <= {"market/slot_price"}


def test_the_exchange_rate_is_of_ega_alone():
  _, finals = tiny_run.trained()
  worth = {stage: float(finals[stage]["market"]["organic_weight"]) for stage in STAGES[2:]}
  for stage in ("policy", "payment"):
    assert worth[stage] == pytest.approx(0.9 * worth["reward"], rel=1e-6)
  # The systems that EGA is compared with keep the market's own.
  assert worth["align"] == worth["policy_bid_free"] == worth["ranker"] == worth["reward"]


def test_market_constants_are_positive_and_of_the_logs():
  _, finals = tiny_run.trained()
  market = {name: float(value) for name, value in finals["policy"]["market"].items()}
  assert set(market) == {"bid_scale", "organic_weight", "slot_price"} and np.isfinite(list(market.values())).all()
  assert market["bid_scale"] > 0 and market["organic_weight"] > 0  # a slot's price may be a subsidy
  from ega_jax.data.pipeline import read_split

  logs = read_split(tiny_run.data(), "train", ("bid", "is_ad", "candidates"))
  assert market["bid_scale"] == np.float32(np.median(logs["bid"][logs["is_ad"] & (logs["candidates"] >= 0)]))


def test_payment_tables_are_curves_over_absolute_bids():
  workdir, finals = tiny_run.trained()
  with np.load(workdir / "counterfactual_policy.npz") as stored:
    tables = dict(stored)
  nodes, x = tables["nodes"], tables["x"]
  fixed, drawn = nodes[:, :9], nodes[:, 9:]
  assert drawn.shape[1] == 4 and (fixed[:, 0] == 0).all() and (np.diff(fixed, axis=1) > 0).all()
  ratio = fixed[:, 1:] / fixed[:, 1:2]
  np.testing.assert_allclose(ratio, ratio[:1].repeat(len(ratio), 0), rtol=1e-5)  # one grid, in units of the ad's value
  assert (drawn > 0).all() and len(np.unique(drawn)) == drawn.size
  assert ((0 <= x) & (x < 1)).all() and (x.max(1) > 0).all()
  np.testing.assert_allclose(tables["weight"].sum(1), 1, atol=1e-4)


def test_the_payment_stage_lowers_its_loss_and_raises_the_multiplier_by_the_regret():
  """Eq. 33-35: 40 steps on the tables of 16 requests, from the menu that the price starts as."""
  workdir, finals = tiny_run.trained()
  config, options = tiny_run.config(), tiny_run.config().payment
  stage = payment_stage(config, None, "price", None)
  start = stage.init(jax.random.key(0), {"policy": finals["policy"]})
  assert float(start["payment"]["multiplier"]) == options.multiplier
  with np.load(workdir / "counterfactual_policy.npz") as stored:
    tables = {name: array for name, array in stored.items() if name != "made_by"}

  def lagrangian(payment):
    params = {**finals["policy"], "payment": {**payment, "multiplier": jnp.asarray(options.multiplier)}}
    total, weight, metrics = jax.jit(stage.loss)(params, tables, jax.random.key(0))
    return float(total / weight), {name: float(part / rows) for name, (part, rows) in metrics.items()}

  before, metrics = lagrangian(start["payment"])
  after, _ = lagrangian(finals["payment"]["payment"])
  assert after < before
  # Adam's and the ascent's steps are apart: lambda is what the regrets of 40 steps add up to, near rho * 40 * regret.
  grown = float(finals["payment"]["payment"]["multiplier"]) - options.multiplier
  expected = options.multiplier_step * options.steps * metrics["regret"]
  assert 0 < grown and 0.2 * expected < grown < 3 * expected, (grown, expected)


def test_stored_payment_tables_are_read_for_their_own_parameters_only(monkeypatch, tmp_path):
  config, made = tiny_run.config(), []
  table = {"nodes": np.ones((3, 2), np.float32)}
  monkeypatch.setattr(payment, "_batch_tables", lambda *args: made.append(args) or table)
  system = lambda value: types.SimpleNamespace(params={"policy": np.full(3, value)})
  ask = lambda value, **how: payment.payment_tables(config, system(value), str(tmp_path / "tables.npz"), **how)
  first, batches = ask(1.0), len(made)
  again = ask(1.0)
  assert len(made) == batches and again.keys() == table.keys()
  np.testing.assert_array_equal(again["nodes"], first["nodes"])
  ask(2.0, writes=False)
  assert len(made) == 2 * batches
  ask(1.0)
  assert len(made) == 2 * batches  # what was not written left the file as it was
  ask(2.0)
  ask(2.0)
  assert len(made) == 3 * batches


@pytest.mark.parametrize("length", [3, 5, 40])
def test_lists_of_another_length_than_the_datas_are_refused_at_once(length, tmp_path):
  config = copy.deepcopy(tiny_run.config())
  config.list_length = length
  with pytest.raises(ValueError, match=f"config.list_length is {length}; the lists of .* have 4 items; allowed: 4, or"):
    recipe.stages(config, tmp_path)


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("systems=('EGA','EGB')", "config.systems has 'EGB'; allowed: popularity, .*EGA"),
    ("evaluation.chunk=0", "config.evaluation.chunk is 0; allowed: 1 or more"),
    ("payment.requests=1", "config.payment.requests is 1; allowed: [0-9]+ or more"),
    ("reward.held_back_folds=10", "config.reward.held_back_folds is 10; allowed: [01] to 9"),
  ],
)
def test_settings_that_would_fail_hours_later_are_refused_at_once(argument, message, tmp_path):
  config = copy.deepcopy(tiny_run.config())
  with config.unlocked():
    experiment.override(config, f"--config.{argument}")
  with pytest.raises(ValueError, match=message):
    recipe.stages(config, tmp_path)


def test_more_codes_than_items_are_refused_and_shapes_need_no_clustering(tmp_path):
  config = copy.deepcopy(tiny_run.config())
  tokenizer = recipe.stages(config, tmp_path)[0]
  key = jax.eval_shape(lambda: jax.random.key(0))
  quick, slow = (jax.eval_shape(make, key, {}) for make in (tokenizer.shapes, tokenizer.init))
  assert shapes(unbox(quick)) == shapes(unbox(slow)) and logical_names(quick) == logical_names(slow)
  with config.unlocked():
    config.tokenizer.codebook_size = 201
  with pytest.raises(ValueError, match="config.tokenizer.codebook_size is 201; allowed: 1 to 200, one a poi"):
    recipe.stages(config, tmp_path)


def test_a_judge_needs_logs_that_were_held_back(tmp_path):
  config = copy.deepcopy(tiny_run.config())
  with config.unlocked():
    config.judge, config.reward.held_back_folds = True, 0
  with pytest.raises(ValueError, match="held_back_folds is 0; allowed: 1 to 9 with judge=True"):
    recipe.stages(config, tmp_path)
  with config.unlocked():
    config.judge = False
  recipe.stages(config, tmp_path)


def test_what_the_tokenizer_says_of_its_ids():
  ids = tiny_run.trained()[1]["tokenizer"]["ids"]
  config = tiny_run.config()
  evaluate = next(stage for stage in recipe.stages(config, "unused") if stage.name == "tokenizer").evaluate
  found = evaluate(tiny_run.trained()[1]["tokenizer"])
  paths = [tuple(path) for path in np.asarray(ids.poi)[:, :-1]]
  assert found["poi/collision_rate"] == pytest.approx(np.mean([paths.count(path) > 1 for path in paths]))
  assert all(isinstance(value, float) and np.isfinite(value) for value in found.values())
  assert {"poi/path_similarity", "creative/path_similarity", "poi/code_usage_0"} <= found.keys()


def test_sampled_regret_is_the_loop():
  rng = np.random.default_rng(0)
  truthful, misreport, x, nodes = (rng.random((3, 6)).astype(np.float32) for _ in range(4))
  nodes = np.sort(nodes, 1)
  own = rng.integers(0, 6, (3, 2))
  found = np.asarray(payment_tables.sampled_regret(truthful, misreport, x, nodes, own))
  for row in range(3):
    for sample, at in enumerate(own[row]):
      value = nodes[row, at]
      truth = (value - truthful[row, at]) * x[row, at]
      best = max((value - misreport[row, g]) * x[row, g] for g in range(6))
      assert found[row, sample] == pytest.approx(max(best - truth, 0), abs=1e-6)


def test_node_weights_are_the_values_distribution():
  mu = np.array([[0.3, -1.0]])
  nodes = value_nodes(mu, 0.6, 16)
  weights = pricing.node_weights(nodes, mu, 0.6)
  drawn = np.exp(mu[..., None] + 0.6 * np.random.default_rng(0).normal(size=(1, 2, 20000)))
  for ad in range(2):
    index = np.searchsorted(nodes[0, ad], drawn[0, ad], side="right") - 1
    np.testing.assert_allclose(np.bincount(index, minlength=16) / 20000, weights[0, ad], atol=0.015)


def test_a_custom_loss_is_one_function_and_one_line_and_it_trains():
  assert len(inspect.getsource(custom_loss).splitlines()) <= 40
  config = custom_loss.get_config()
  config.data = tiny_run.data()
  stages = custom_loss.stages(config, None)
  assert [stage.name for stage in stages] == ["tokenizer", "pretrain"]
  # The shared run's pre-training has this loss: the total and the new term both fall.
  norm = _metrics("pretrain", "user_norm")
  assert norm[-1] < norm[0] and _metrics("pretrain")[-2:].mean() < _metrics("pretrain")[0]


@pytest.mark.parametrize(
  "key,value",
  [("tokenizer.method", "vq"), ("pretrain.normaliser", "x"), ("policy.rollout", "x"), ("model.preset", "huge")],
)
def test_unknown_choices_are_refused_by_name(key, value):
  from ega_jax.stages import recipe
  from launch import experiment

  config = experiment.load(tiny_run.EXPERIMENT, [f"--config.data={tiny_run.data()}", f"--config.{key}={value}"])[1]
  with pytest.raises(ValueError, match=f"config.{key} is '{value}'; allowed: "):
    recipe.stages(config, None)
