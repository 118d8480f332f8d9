"""launch.train and the scripts that start it, as a person runs them."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import launch.train
from launch import experiment

TOY = Path(__file__).parents[1] / "training" / "toy_experiment.py"
SCRIPTS = Path(launch.train.__file__).parent
ENV = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "JAX_PLATFORMS": "cpu"}


def call(command, env=ENV, **kwargs):
  return subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, timeout=120, **kwargs)


def train(*args):
  return call([sys.executable, "-m", "launch.train", f"--experiment={TOY}", *args])


def test_trains_reports_and_refuses_another_config(tmp_path):
  report = tmp_path / "report.json"
  args = [f"--workdir={tmp_path / 'run'}", "--stages=regress", "--config.num_steps=6", f"--output={report}"]
  ran = train(*args)
  assert ran.returncode == 0, ran.stderr
  assert "regress 6/6 loss" in ran.stderr and "steps/s" in ran.stderr and "Finished load" not in ran.stderr
  result = json.loads(report.read_text())
  assert result["config"]["num_steps"] == 6 and result["seed"] == 0 and "--stages=regress" in result["command"]
  assert [stage["name"] for stage in result["stages"]] == ["regress"]
  assert result["stages"][0]["metrics"][0]["step"] == 6
  assert Path(json.loads((tmp_path / "run" / "experiment.json").read_text())["experiment"]) == TOY
  other = train(*args, "--config.model.width=24")
  assert other.returncode == 2
  assert "config.json: model.width is 16 there and 24 now" in other.stderr and "Traceback" not in other.stderr


@pytest.mark.parametrize(
  ("stages", "message"), [("head", "stage 'regress' is not complete in"), ("hed", "--stages: 'hed' is unknown")]
)
def test_a_refused_command_leaves_no_workdir(tmp_path, stages, message):
  refused = train(f"--workdir={tmp_path / 'run'}", f"--stages={stages}", "--config.model.width=24")
  assert refused.returncode == 2 and message in refused.stderr
  assert not (tmp_path / "run").exists()  # a config.json there would refuse the corrected command


def test_dry_run_prints_stages_parameters_and_shardings_and_writes_no_workdir(tmp_path):
  report = tmp_path / "dry.json"
  ran = train("--dry_run", f"--workdir={tmp_path / 'run'}", f"--output={report}", "--config.model.width=32")
  assert ran.returncode == 0, ran.stderr
  assert "regress: 20 steps, 332 numbers" in ran.stdout and "320 trained" in ran.stdout
  assert [stage["name"] for stage in json.loads(report.read_text())["stages"]] == ["regress", "codes", "head"]
  assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_with_1(tmp_path):
  ran = train(f"--workdir={tmp_path}", "--config.bad_step=2", "--config.num_steps=4")
  assert ran.returncode == 1
  assert "failed: stage 'regress': loss or gradient is not finite at step 2" in ran.stderr


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--dry_run", "--mesh=data=3"], "which does not divide the 1 that exist"),
    (["--dry_run", "--no_such_flag=1"], "no_such_flag"),
    (["--dry_run", "--config.model.widht=1"], "did you mean: model.width"),
  ],
)
def test_bad_input_ends_with_2(args, message):
  ran = train(*args)
  assert ran.returncode == 2
  assert message in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--config.model.widht=8", "'model.widht' is unknown; did you mean: model.width"),
    ("--config.model.width.x=8", "'model.width.x' is unknown"),
    ("--config.model=8", "'model' is a group; allowed: one of its keys, width"),
    ("--config.model.width=wide", "allowed: a value of type int, such as 16"),
    ("--config.model.width=true", "allowed: a value of type int"),
    ("--config.model.width", "allowed: --config.model.width=value"),
  ],
)
def test_overrides_that_do_not_fit_are_refused(argument, message):
  with pytest.raises(ValueError, match=message):
    experiment.load(TOY, [argument])


def test_overrides_are_applied_by_type():
  module, config = experiment.load(TOY, ["--config.model.width=8", "--config.trainable=a|b"])
  assert config.model.width == 8 and config.trainable == "a|b" and module.FEATURES == 8
  with pytest.raises(ValueError, match="no such file"):
    experiment.load("nowhere.py")
  assert config.mesh and "mesh" not in experiment.as_dict(config)  # another layout is not another experiment


def test_several_processes_on_this_machine_print_their_commands():
  ran = call(["bash", SCRIPTS / "local_multiprocess.sh", "3", f"--experiment={TOY}", "--workdir=/a b", "--dry_run"])
  assert ran.returncode == 0, ran.stderr
  commands = [shlex.split(line) for line in ran.stdout.splitlines()]
  assert len(commands) == 3 and all("--workdir=/a b" in command for command in commands)
  assert [command[-1] for command in commands] == ["--process_id=0", "--process_id=1", "--process_id=2"]
  assert call(["bash", SCRIPTS / "local_multiprocess.sh", "none"]).returncode == 2


def test_cluster_scripts_print_their_commands():
  args = ["--experiment=x.py", "--workdir=/shared/a b", "--dry_run"]
  pod = call(["bash", SCRIPTS / "tpu_pod.sh", *args], ENV | {"TPU": "pod", "ZONE": "us-central1-a"})
  command = shlex.split(pod.stdout)
  assert "--worker=all" in command and "--zone=us-central1-a" in command
  remote = shlex.split(command[-1].partition("--command=")[2])
  assert "--coordinator=auto" in remote and "--workdir=/shared/a b" in remote
  assert call(["bash", SCRIPTS / "tpu_pod.sh", *args]).returncode != 0  # no TPU named
  slurm = shlex.split(call(["bash", SCRIPTS / "slurm.sbatch", *args]).stdout)
  assert slurm[0] == "srun" and "--coordinator=auto" in slurm and "--workdir=/shared/a b" in slurm


@pytest.mark.parametrize("binary", ["train", "evaluate", "prepare_data", "generate"])
def test_help_is_no_failure(binary):
  command = [sys.executable, "-m", f"launch.{binary}", "--help"]
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0 and "python -m launch." in done.stdout + done.stderr
