"""Damaged or foreign files are found before hours of training or evaluation, and named."""

import copy
import json
import os
import shutil
import subprocess
import sys
import types

import pytest

import tiny_run
from ega_jax.data import pipeline
from ega_jax.stages import recipe
from launch import binary, evaluate, finished


@pytest.mark.parametrize("name", ["train.array_record", "validation.array_record", "test.array_record", "catalog.npz"])
def test_training_opens_every_file_of_the_data_before_it_begins(name, tmp_path):
  data = tmp_path / "data"
  shutil.copytree(tiny_run.data(), data)
  pipeline.check_files(str(data))
  os.truncate(data / name, os.path.getsize(data / name) - 200)
  with pytest.raises(ValueError, match=f"{name}: .*truncated"):
    finished.check_files(types.SimpleNamespace(get={"data": str(data)}.get))


def test_refused_data_leave_no_workdir(tmp_path):
  data = tmp_path / "data"
  shutil.copytree(tiny_run.data(), data)
  (data / "next_poi_test.npz").write_bytes(b"PK")
  command = [sys.executable, "-m", "launch.train", f"--experiment={tiny_run.EXPERIMENT}", f"--config.data={data}"]
  env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
  done = subprocess.run(
    [*command, f"--workdir={tmp_path / 'run'}"], capture_output=True, text=True, env=env, timeout=300
  )
  assert done.returncode == 2 and "next_poi_test.npz: not an .npz file, or truncated" in done.stderr
  assert not (tmp_path / "run").exists()


def test_data_must_be_named():
  config = copy.deepcopy(tiny_run.config())
  with config.unlocked():
    config.data = ""
  with pytest.raises(ValueError, match="config.data is empty; allowed: --config.data=DIR"):
    recipe.stages(config, None)


def _evaluate(monkeypatch, tmp_path, workdirs, **changes):
  values = {
    "workdir": list(map(str, workdirs)),
    "systems": [],
    "report_only": False,
    "output": str(tmp_path / "out.json"),
  }
  monkeypatch.setattr(evaluate.flags, "FLAGS", types.SimpleNamespace(**(values | changes)))
  return evaluate.main([])


def test_all_runs_are_looked_at_before_the_first_is_evaluated(monkeypatch, tmp_path):
  monkeypatch.setattr(evaluate, "evaluate_seed", lambda *args, **how: pytest.fail("the first has been evaluated"))
  run = tiny_run.trained()[0]
  with pytest.raises(ValueError, match="--workdir=.*no_run: no experiment.json"):
    _evaluate(monkeypatch, tmp_path, [run, tmp_path / "no_run"])
  shutil.copytree(run, tmp_path / "copy")
  with pytest.raises(ValueError, match="two have the same seed; allowed: one folder per seed"):
    _evaluate(monkeypatch, tmp_path, [run, tmp_path / "copy"])


def test_damaged_evaluations_are_named(monkeypatch, tmp_path):
  folder = tmp_path / "evaluation"
  folder.mkdir()
  figures = {"commit": "1", "data": "x", "config": {"seed": 0}, "systems": {"EGA": {}}}
  text = json.dumps(figures)
  report = lambda: _evaluate(monkeypatch, tmp_path, [tmp_path], report_only=True)
  for damaged, message in (
    (text[:-9], "figures.json: not JSON, or truncated"),
    ("[1]", "figures.json: has no systems"),
  ):
    (folder / "figures.json").write_text(damaged)
    with pytest.raises(ValueError, match=message):
      report()
  (folder / "figures.json").write_text(text)
  (folder / "EGA.npz").write_bytes(b"PK\x03\x04 cut off")
  with pytest.raises(ValueError, match="EGA.npz: not an .npz file, or truncated"):
    report()


def test_a_workdir_is_a_path(tmp_path):
  with pytest.raises(ValueError, match="--workdir=gs://bucket/run is a URL; allowed: a path"):
    binary.check_output("gs://bucket/run", folder=True, flag="--workdir")
