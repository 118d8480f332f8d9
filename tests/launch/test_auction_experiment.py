"""experiments/differentiable_auctions from the command to its table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.differentiable_auctions import table

EXPERIMENT = Path(__file__).resolve().parents[2] / "experiments/differentiable_auctions/config.py"
SMALL = {
  "num_bidders": 1, "num_items": 2, "hidden": 8, "layers": 1, "profiles": 256, "batch_size": 64, "steps": 60,
  "learning_rate": 0.01, "grade.profiles": 400, "grade.grid_profiles": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Returns a folder with the reports of two seeds of one setting."""
  found = tmp_path_factory.mktemp("auctions")
  for seed in (0, 1):
    config = [f"--config.{key}={value}" for key, value in {**SMALL, "seed": seed}.items()]
    command = ["-m", "launch.train", f"--experiment={EXPERIMENT}", *config]
    outputs = [f"--workdir={found}/1x2/seed{seed}", f"--output={found}/1x2/seed{seed}.json"]
    subprocess.run([sys.executable, *command, *outputs], check=True, capture_output=True)
  return found


def test_a_run_ends_with_its_grades_and_seeds_differ(folder):
  (seeds,) = table.results(folder).values()
  assert [one["seed"] for one in seeds] == [0, 1]
  for one in seeds:
    assert one["profiles"] == 400 and one["searched_profiles"] == 8 and one["ir_violations"] == 0
    assert 0 < one["revenue"] < one["welfare"] < 1
    assert one["regret"] >= one["regret_grid"] > 0
    assert one["optimum"] == pytest.approx(0.549201, abs=1e-6)
  assert seeds[0]["revenue"] != seeds[1]["revenue"]


def test_the_table_has_means_over_seeds(folder):
  text = table.markdown(table.results(folder))
  revenue = [one["revenue"] for one in table.results(folder)["1x2"]]
  assert f"| 1x2 | {sum(revenue) / 2:.4f} ± " in text and "0.5492" in text and "8 of 400" in text


def test_the_program_writes_both_and_refuses_an_empty_folder(folder, tmp_path):
  command = [sys.executable, "-m", "experiments.differentiable_auctions.table"]
  subprocess.run([*command, folder], check=True, capture_output=True)
  assert list(json.loads((folder / "results.json").read_text())) == ["1x2"]
  assert (folder / "table.md").read_text().startswith("| bidders x items |")
  for arguments, said in (([tmp_path], "run.sh filled"), ([], "allowed: one folder")):
    run = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert run.returncode == 2 and said in run.stderr and "Traceback" not in run.stderr


def test_a_grading_that_would_fail_is_refused_before_training(tmp_path):
  command = [sys.executable, "-m", "launch.train", f"--experiment={EXPERIMENT}", f"--workdir={tmp_path}/run"]
  run = subprocess.run([*command, "--config.grade.grid_profiles=0"], capture_output=True, text=True)
  assert run.returncode == 2 and "grid_profiles is 0 of 100000 profiles" in run.stderr


@pytest.mark.parametrize("settings", ["2 x 2", "2x0", "x2"])
def test_the_script_refuses_settings_that_are_none(settings):
  script = EXPERIMENT.with_name("run.sh")
  run = subprocess.run(["bash", script], env=os.environ | {"SETTINGS": settings}, capture_output=True, text=True)
  assert run.returncode == 2 and "bad input: SETTINGS has" in run.stderr
