"""launch/quickstart.sh with a recorder in place of the binaries: which commands it gives, and when it stops."""

import os
import signal
import subprocess
import time

import pytest
from script_recorder import install

RECORDER = """#!/bin/sh
echo "$@" >> "$RUN/commands"
case "$*" in *"$SLOW"*) sleep 20 & child=$!; trap 'kill $child; touch "$RUN/ended"; exit 143' TERM; wait ;; esac
case "$*" in *"$FAILS"*) exit 3 ;; esac
"""


@pytest.fixture
def start(tmp_path):
  """Returns a function (overrides, **environment) that starts the script, and the file of commands."""
  script = install(tmp_path, "quickstart.sh", RECORDER)
  (tmp_path / "commands").touch()
  env = os.environ | {"RUN": str(tmp_path), "SLOW": "nothing", "FAILS": "nothing"}
  return lambda *overrides, **changes: subprocess.Popen(["bash", script, *overrides], env=env | changes), tmp_path


def test_every_stage_is_trained_once_with_the_overrides_and_evaluated_by_two(start):
  call, folder = start
  assert call("--config.a=1", "--config.b=x y").wait() == 0
  commands = (folder / "commands").read_text().splitlines()
  stages = [one.split("--stages=")[1].split(" ")[0] for one in commands if "launch.train" in one]
  assert stages[0] == "tokenizer" and {*stages[1:3]} == {"pretrain", "reward"}
  assert {*stages[3:5]} == {"align,policy,payment", "ranker"}
  assert stages[5:] == [""]  # what a setting adds, such as a row's own payments
  assert all(one.endswith("--config.a=1 --config.b=x y") for one in commands if "launch.train" in one)
  assert "prepare_data" in commands[0] and sum("launch.evaluate" in one for one in commands[-2:]) == 2


@pytest.mark.parametrize("failing", ["--stages=pretrain", "--stages=reward", "launch.evaluate"])
def test_it_fails_where_one_of_two_does(start, failing):
  call, folder = start
  assert call(FAILS=failing).wait() == 3
  after = [one for one in (folder / "commands").read_text().splitlines() if "align" in one]
  assert bool(after) == (failing == "launch.evaluate")


def test_what_runs_beside_ends_with_the_script(start):
  call, folder = start
  script = call(SLOW="--stages=pretrain")
  _wait_until(lambda: "--stages=pretrain" in (folder / "commands").read_text())
  script.send_signal(signal.SIGTERM)
  script.wait()
  _wait_until((folder / "ended").exists)


def _wait_until(holds, seconds=30):
  deadline = time.time() + seconds
  while not holds():
    assert time.time() < deadline
    time.sleep(0.05)
