"""launch/checkins.sh with a recorder in place of the binaries: which commands it gives, and when it stops."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
from script_recorder import LAUNCH, install

RECORDER = """#!/bin/sh
[ "$1" != -c ] || exec python3 "$@"
echo "$@" >> "$RUN/commands"
case "$*" in
  *prepare_data*) mkdir -p "$RUN/data"; [ -z "${UNPREPARED:-}" ] || exit 2; touch "$RUN/data/schema.json" ;;
  *launch.train*seed1*) exit "${FAILS:-0}" ;;
esac
"""


@pytest.fixture
def script(tmp_path):
  """Returns a function (overrides, **environment) -> (exit code, the commands given)."""
  (tmp_path / "city").mkdir()
  (tmp_path / "city" / "checkins.tsv").write_text("user\tlocal_time\tpoi\n")
  (tmp_path / "run").mkdir()
  path = install(tmp_path, "checkins.sh", RECORDER)

  def run(*arguments, **environment):
    commands = tmp_path / "run" / "commands"
    commands.unlink(missing_ok=True)
    env = os.environ | {"RUN": str(tmp_path / "run"), "POLL": ".1", **environment}
    done = subprocess.run(["bash", path, *arguments], env=env, capture_output=True)
    run.said = done.stderr.decode()
    return done.returncode, commands.read_text().splitlines() if commands.exists() else []

  return lambda *overrides, **environment: run(str(tmp_path / "city"), *overrides, **environment), run, tmp_path


@pytest.mark.parametrize("jobs", ["1", "2", "4"])
def test_it_prepares_trains_and_evaluates_every_seed_and_reports_last(script, jobs):
  run, _, folder = script
  code, commands = run("--config.pretrain.steps=7", SEEDS="0 1 2", MARKETPLACE="4", JOBS=jobs)
  evaluations = [one for one in commands if "launch.evaluate --workdir" in one]
  assert code == 0 and len(commands) - len(evaluations) == 5 and len(set(evaluations)) == 3
  prepare = f"--source=checkins --input={folder}/city --output={folder}/run/data --seed=4"
  assert commands[0] == f"-m launch.prepare_data {prepare}"
  for seed in "012":
    (train,) = (at for at, one in enumerate(commands) if f"--workdir={folder}/run/seed{seed} --config.seed" in one)
    assert "-m launch.train " in commands[train]
    assert f"--config.seed={seed} --config.data={folder}/run/data --config.pretrain.steps=7" in commands[train]
    evaluate = commands.index(
      f"-m launch.evaluate --workdir={folder}/run/seed{seed} --output={folder}/run/seed{seed}/results.json"
    )
    assert train < evaluate
  folders = ",".join(f"{folder}/run/seed{seed}" for seed in "012")
  assert commands[-1] == f"-m launch.evaluate --report_only --workdir={folders} --output={folder}/run/results.json"
  again = run(SEEDS="0", MARKETPLACE="4", JOBS="1")[1]
  assert len(again) == 3 and "prepare_data" not in again[0]  # what is prepared stays


def test_a_seed_that_fails_is_not_evaluated_and_nothing_is_reported(script):
  run, _, _ = script
  code, commands = run(SEEDS="0 1", FAILS="1")
  assert code != 0 and not any("report_only" in one for one in commands)
  assert not any("launch.evaluate" in one and "seed1" in one for one in commands)
  assert any("launch.evaluate" in one and "seed0" in one for one in commands)


def test_idle_jobs_help_with_an_evaluation_under_way(script):
  run, _, folder = script
  slow = RECORDER.replace("esac", "  *launch.evaluate*seed0/results*) sleep 1 ;;\nesac")
  (folder / "recorder").write_text(slow)
  commands = run(SEEDS="0", JOBS="2")[1]
  assert sum("launch.evaluate --workdir" in one for one in commands) == 2
  assert "report_only" in commands[-1]


def test_without_a_city_it_says_how_it_is_used(script):
  assert script[1]() == (2, [])


def test_the_data_of_another_city_marketplace_or_preparation_are_refused(script):
  run, call, folder = script
  code, commands = run(SEEDS="0", PREPARE="--num_organic=20 --num_ads=6")
  assert code == 0 and commands[0].endswith("--seed=1 --num_organic=20 --num_ads=6")
  same = {"SEEDS": "0", "PREPARE": "--num_organic=20 --num_ads=6"}
  assert run(**same)[0] == 0
  for change, named in (({"MARKETPLACE": "2"}, "> MARKETPLACE=2"), ({"PREPARE": ""}, "> PREPARE=")):
    assert run(**same | change) == (2, [])
    assert f"bad input: RUN is {folder}/run" in call.said and named in call.said
  (folder / "city" / "windows_val.csv").write_text("Uid\n")
  assert run(**same) == (2, []) and "windows_val.csv" in call.said
  (folder / "city" / "windows_val.csv").unlink()
  assert run(**same)[0] == 0
  (folder / "city" / "checkins.tsv").write_text("user\tlocal_time\tpoi\nu\t2020-01-01 00:00\t1\n")
  assert run(**same) == (2, []) and "checkins.tsv" in call.said
  (folder / "run" / "data_of.txt").unlink()
  assert run(**same) == (2, []) and "no data_of.txt says what its data were made of" in call.said


def test_what_was_not_prepared_is_prepared_again(script):
  run, _, folder = script
  code, commands = run(SEEDS="0", UNPREPARED="1")
  assert code == 2 and len(commands) == 1
  assert "prepare_data" in run(SEEDS="0", MARKETPLACE="3")[1][0]
  assert "MARKETPLACE=3" in (folder / "run" / "data_of.txt").read_text()


def test_a_city_that_is_not_there_is_refused(script):
  _, call, folder = script
  assert call(str(folder / "no_city")) == (2, []) and f"CITY is {folder}/no_city; allowed: a folder" in call.said


@pytest.mark.skipif(shutil.which("taskset") is None, reason="no taskset here")
def test_a_process_gets_one_of_the_shells_own_cores_and_one_thread():
  python, own = shlex.quote(sys.executable), max(os.sched_getaffinity(0))
  setup = f'python={python}; xla_flags() {{ :; }}; source "{LAUNCH}/cpu.sh"'
  script = f'{setup}; for at in 0 1; do pin $at; echo "${{pinned[@]}}"; done'
  run = subprocess.run(["taskset", "-c", str(own), "bash", "-ec", script], capture_output=True, text=True, check=True)
  assert run.stdout.splitlines() == [f"env NPROC=1 taskset -c {own}"] * 2
