"""Killed and resumed == uninterrupted, bit for bit: parameters and metrics."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import run_toy
import toy_experiment

import launch.train
from ega_jax.training import loop

SCRIPT = Path(run_toy.__file__)
ENV = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "JAX_PLATFORMS": "cpu"}


def spawn(*args):
  command = [sys.executable, str(SCRIPT), *map(str, args)]
  return subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, text=True)


def ended(process):
  """Returns (exit status, the JSON object of the last line, None if there is none)."""
  try:
    lines = process.communicate(timeout=120)[0].splitlines()
  finally:
    process.kill()  # SIGKILL: after jax.distributed.initialize SIGTERM no longer ends a process
  return process.returncode, json.loads(lines[-1]) if lines else None


def metrics(workdir):
  return {path.parent.name: path.read_text() for path in Path(workdir).glob("*/metrics.jsonl")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("uninterrupted")
  finals = run_toy.run(workdir)
  return finals, metrics(workdir)


def test_killed_at_every_kind_of_point_ends_with_the_same_bits(uninterrupted, tmp_path):
  finals, lines = uninterrupted
  for point in ("step:11", "saving:1", "finished", "between"):
    assert ended(spawn(tmp_path, f"--kill={point}"))[0] == -signal.SIGKILL, point
  status, hashes = ended(spawn(tmp_path))
  assert status == 0
  assert hashes == run_toy.hashes(finals)
  assert metrics(tmp_path) == lines
  assert len(lines["regress"].splitlines()) == 7  # steps 5, 10, 15, 20, evaluations at 8, 16 and the end


def test_sigterm_saves_the_step_and_the_same_call_continues(uninterrupted, tmp_path, monkeypatch):
  finals, lines = uninterrupted
  with monkeypatch.context() as patched:
    patched.setattr(loop, "global_batch", loop.global_batch)
    run_toy.counted(loop, "global_batch", 6, before=lambda: run_toy.end(signal.SIGTERM))
    with pytest.raises(loop.Preempted, match="'regress' was asked to end at step 6"):
      run_toy.run(tmp_path)
  assert (tmp_path / "regress" / "steps" / "6").is_dir()
  assert run_toy.hashes(run_toy.run(tmp_path)) == run_toy.hashes(finals)
  assert metrics(tmp_path) == lines


def test_two_processes_preempted_and_continued_by_the_script_equal_one(uninterrupted, tmp_path):
  finals, _ = uninterrupted
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{probe.getsockname()[1]}"
  common = (tmp_path, f"--coordinator={address}", "--processes=2", "--pause=0.25")
  pair = [spawn(*common, "--process=0", "--term=5"), spawn(*common, "--process=1")]
  first = [ended(process) for process in pair]  # one of them is told; both stop at the same step
  assert all("was asked to end at step" in result["preempted"] for _, result in first), first
  assert first[0][1] == first[1][1]
  with pytest.raises(ValueError, match="num_processes is 2 there and 1 now"):
    run_toy.run(tmp_path)
  script = Path(launch.train.__file__).with_name("local_multiprocess.sh")
  flags = (f"--experiment={toy_experiment.__file__}", f"--workdir={tmp_path}", "--log_every=5", "--checkpoint_every=4")
  command = ["bash", str(script), "2", *flags]
  ran = subprocess.run(command, env=ENV | {"EGA_PYTHON": sys.executable}, capture_output=True, text=True, timeout=200)
  assert ran.returncode == 0, ran.stderr
  assert "regress continues at step" in ran.stderr
  again = run_toy.run(tmp_path)  # a complete run is read by any number of processes
  for one, two in zip(jax.tree.leaves(finals["head"]), jax.tree.leaves(again["head"]), strict=True):
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)
