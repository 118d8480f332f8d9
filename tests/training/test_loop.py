"""The loop on one device: loss falls, one compilation, donation, finiteness, frozen leaves, refusals."""

import dataclasses
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_experiment

from ega_jax.parallel.mesh import make_mesh
from ega_jax.training import loop, step
from ega_jax.training.checkpoint import load_final
from ega_jax.training.stage import Stage
from ega_jax.training.state import initial_state
from ega_jax.training.writers import duration, read_metrics, truncate


def toy(**changes):
  """Returns the config and the first stage of the toy."""
  config = toy_experiment.get_config()
  config.update(changes)
  return config, toy_experiment.stages(config, None)[0]


def run(stages, workdir, **options):
  options = {"log_every": 1, "checkpoint_every": 3} | options
  return loop.run(stages, workdir, make_mesh({}, jax.devices()[:1]), options=loop.Options(**options))


def first_state(stage):
  return jax.jit(lambda: initial_state(stage, jax.random.key(0), {}))()


def one_step(stage, state, batch):
  return jax.jit(lambda state, batch: step.train_step(stage, state, batch))(state, batch)


def test_loss_falls_in_one_compilation_and_the_data_is_followed(tmp_path, monkeypatch):
  config, stage = toy(num_steps=60)
  steps, compiled = [], step.compile_step
  monkeypatch.setattr(loop, "compile_step", lambda *args: steps.append(compiled(*args)) or steps[-1])
  finals = run([stage], tmp_path, checkpoint_every=100)
  assert steps[0]._cache_size() == 1
  lines = [line for line in read_metrics(tmp_path / "regress" / "metrics.jsonl") if line["phase"] == "train"]
  assert [line["step"] for line in lines] == list(range(1, 61))
  losses = np.array([line["loss"] for line in lines])
  assert losses[-10:].mean() < 0.8 * losses[:10].mean()
  assert all(line["weight"] == config.batch_size and line["grad_norm"] > 0 for line in lines)
  loaded, names = load_final(tmp_path / "regress")
  jax.tree.map(np.testing.assert_array_equal, finals["regress"], loaded)
  assert names["regressor/hidden"] == ("embed", "mlp")


def test_step_donates_its_state():
  _, stage = toy()
  mesh = make_mesh({}, jax.devices()[:1])
  state = first_state(stage)
  shardings = jax.tree.map(lambda leaf: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()), state)
  state = jax.device_put(state, shardings)
  batch = {name: value[:8] for name, value in zip("xy", toy_experiment.rows(), strict=True)}
  following, _ = step.compile_step(stage, mesh, shardings)(state, batch)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(following))


def test_a_stage_that_trains_on_leaves_the_earlier_stages_params_alone(tmp_path):
  _, stage = toy(num_steps=2)
  seen = {}
  second = dataclasses.replace(
    stage,
    name="second",
    init=lambda rng, previous: previous["regress"],
    finish=lambda params, previous: seen.update(previous) or params,
  )
  finals = run([stage, second], tmp_path)
  stored, names = load_final(tmp_path / "regress")
  jax.tree.map(np.testing.assert_array_equal, seen["regress"], stored)
  assert (finals["second"]["regressor"]["out"] != stored["regressor"]["out"]).all()
  assert load_final(tmp_path / "second")[1] == names  # axis names are handed on


def test_loss_is_divided_once_by_the_weight_and_an_all_masked_batch_changes_nothing():
  def loss(params, batch, rng):
    error = batch["where"] * (params["w"] - batch["y"])
    return jnp.sum(error), jnp.sum(batch["where"]), {"masked": (jnp.sum(error), jnp.sum(batch["where"]))}

  stage = Stage("s", lambda rng, previous: {"w": jnp.ones(())}, loss, list, optax.sgd(0.5), num_steps=1)
  state = first_state(stage)
  y = np.array([2.0, 4.0, 100.0, 7.0], np.float32)
  following, metrics = one_step(stage, state, {"y": y, "where": np.array([1, 1, 0, 0], np.float32)})
  assert metrics["loss"] == ((1 - 2) + (1 - 4)) / 2 == metrics["masked"]
  assert following.params["w"] == 1 - 0.5 * 1  # the mean's gradient is 1
  following, metrics = one_step(stage, state, {"y": y, "where": np.zeros(4, np.float32)})
  assert metrics["loss"] == 0 and metrics["grad_norm"] == 0 and following.params["w"] == 1
  assert following.first_bad_step == -1


def test_non_finite_loss_names_its_step_and_keeps_the_last_good_checkpoint(tmp_path):
  _, stage = toy(bad_step=8)
  with pytest.raises(loop.NonFiniteLoss, match="'regress': loss or gradient is not finite at step 8; .* step 6 "):
    run([stage], tmp_path, log_every=20)
  assert sorted(path.name for path in (tmp_path / "regress" / "steps").iterdir()) == ["3", "6"]
  assert not (tmp_path / "regress" / "final").exists()


def test_a_damaged_checkpoint_is_named_and_without_it_the_one_before_is_gone_on_from(tmp_path):
  _, stage = toy(bad_step=8)
  with pytest.raises(loop.NonFiniteLoss):
    run([stage], tmp_path)
  newest = tmp_path / "regress" / "steps" / "6"
  for path in filter(Path.is_file, newest.rglob("*")):
    os.truncate(path, path.stat().st_size // 2)
  with pytest.raises(ValueError, match=f"{newest}: cannot be read, or is truncated .*; without this folder"):
    run([stage], tmp_path)
  shutil.rmtree(newest)
  with pytest.raises(loop.NonFiniteLoss, match="step 8"):
    run([stage], tmp_path)


def test_non_finite_gradient_of_a_finite_loss_stops_too():
  loss = lambda params, batch, rng: (jnp.sqrt(params["w"] - 1), jnp.float32(1), {})
  stage = Stage("s", lambda rng, previous: {"w": jnp.ones(())}, loss, list, optax.sgd(0.5), num_steps=1)
  following, metrics = one_step(stage, first_state(stage), {})
  assert metrics["loss"] == 0 and following.first_bad_step == 1


def test_frozen_and_integer_leaves_keep_their_bits_and_have_no_optimizer_state(tmp_path):
  _, stage = toy(trainable="regressor/(out|bias)|ids", num_steps=3)
  start = first_state(stage)
  assert sum(leaf.size for leaf in jax.tree.leaves(start.opt_state)) == 1 + 2 * (16 + 16)  # Adam's count and moments
  batch = {name: value[:8] for name, value in zip("xy", toy_experiment.rows(), strict=True)}
  after = one_step(stage, start, batch)[0].params
  changed = jax.tree.map(lambda a, b: bool((a != b).any()), start.params, after)
  assert changed["regressor"] == {"hidden": False, "out": True, "bias": True}
  assert not changed["ids"].poi and after["ids"].poi.dtype == jnp.int32


@pytest.mark.parametrize(
  ("trainable", "message"),
  [("nothing_like_this", "picks no floating-point leaf"), ("ids", "picks no"), ("(", "is no regular expression")],
)
def test_trainable_that_picks_nothing_is_refused(tmp_path, trainable, message):
  _, stage = toy(trainable=trainable)
  with pytest.raises(ValueError, match=message):
    run([stage], tmp_path)


def test_checkpoint_of_another_shape_or_config_is_refused_before_anything_compiles(tmp_path):
  _, stage = toy(num_steps=3)
  run([stage], tmp_path, config={"model": {"width": 16}})
  traced = []
  loss = lambda *args: traced.append(args) or stage.loss(*args)
  wider = dataclasses.replace(toy(num_steps=3, model={"width": 24})[1], loss=loss)
  with pytest.raises(ValueError, match=r"config.json: model.width is 16 there and 24 now"):
    run([wider], tmp_path, config={"model": {"width": 24}})
  with pytest.raises(ValueError, match=r"params.regressor/bias is 'float32\[16\]' there and 'float32\[24\]' now"):
    run([wider], tmp_path)
  with pytest.raises(ValueError, match="seed is 0 there and 1 now"):
    run([dataclasses.replace(stage, loss=loss)], tmp_path, seed=1)
  (tmp_path / "regress" / "fingerprint.json").unlink()  # as where a folder was emptied under a run that still saved
  with pytest.raises(ValueError, match=r"fingerprint.json is missing and there are checkpoints of an unknown stage"):
    run([dataclasses.replace(stage, loss=loss)], tmp_path)
  assert not traced


def test_stage_lists_and_data_are_checked(tmp_path):
  _, stage = toy(num_steps=3)
  with pytest.raises(ValueError, match="with different names"):
    run([stage, stage], tmp_path)
  with pytest.raises(ValueError, match="stage 'reward' is unknown; allowed: regress"):
    run([stage], tmp_path, only=("reward",))
  with pytest.raises(ValueError, match="'regress' is not complete"):
    run([stage, dataclasses.replace(stage, name="next")], tmp_path, only=("next",))
  with pytest.raises(ValueError, match="allowed: an iterator with get_state and set_state"):
    run([dataclasses.replace(stage, batches=lambda previous: [{}])], tmp_path)
  with pytest.raises(ValueError, match="num_steps = -1; allowed: 0 or more"):
    dataclasses.replace(stage, num_steps=-1)
  with pytest.raises(ValueError, match="trains 3 steps and has no loss"):
    dataclasses.replace(stage, loss=None)


def test_stages_that_do_not_need_each_other_are_run_by_two_commands_in_any_order(tmp_path):
  _, first = toy(num_steps=3)
  first, seen = dataclasses.replace(first, needs=()), {}

  def after(name, needs):
    def init(rng, previous):
      seen[name] = sorted(previous)
      return first.init(rng, {})

    return dataclasses.replace(first, name=name, needs=needs, init=init)

  left, right = after("left", ("regress",)), after("right", ("regress",))
  stages = [first, left, right, after("join", ("left", "right")), after("last", None)]
  run(stages, tmp_path / "whole")
  assert seen == {
    "left": ["regress"], "right": ["regress"], "join": ["left", "right"], "last": ["join", "left", "regress", "right"],
  }  # fmt: skip
  parts = [("regress",), ("right",), ("left",), ("join", "last")]
  found = [sorted(run(stages, tmp_path / "parts", only=only)) for only in parts]
  assert found[1:3] == [["regress", "right"], ["left", "regress"]]
  for stage in stages:
    one, other = (load_final(tmp_path / where / stage.name)[0] for where in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, one, other)
  with pytest.raises(ValueError, match="'left' is not complete"):
    run(stages, tmp_path / "other", only=("regress", "right", "join"))
  with pytest.raises(ValueError, match="stage 'left' needs 'right'; allowed: an earlier stage, regress"):
    run([first, dataclasses.replace(left, needs=("right",)), right], tmp_path / "other")


def test_metrics_are_cut_to_the_restored_step(tmp_path):
  path = tmp_path / "metrics.jsonl"
  rows = [(5, "train"), (8, "evaluate"), (10, "train"), (15, "train"), (10, "final")]
  kept = [f'{{"step": {step}, "phase": "{phase}"}}\n' for step, phase in rows]
  path.write_text("".join(kept) + '{"step": 16, "pha')
  truncate(path, 10)
  assert path.read_text() == "".join(kept[:3])


def test_duration():
  assert [duration(s) for s in (4.4, 200, 7500, float("inf"))] == ["4 s", "3 min 20 s", "2 h 5 min", "?"]
