"""The documents say what is so: their program runs, what they name exists, and the checkout holds what it should."""

import dataclasses
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ("README.md", "BUILD_NOTES.md")
TOP_LEVEL = {
  "README.md", "BUILD_NOTES.md", "setup.cfg", "pyproject.toml", "LICENSE", "CITATION.cff", ".gitignore", ".ci",
  "ega_jax", "experiments", "launch", "tests",
}  # fmt: skip
ENDINGS = r"\.(?:py|sh|sbatch|md|cfg|toml|cff)"
OUTPUTS = ("runs/", "windows_")  # what programs write or people bring


def all_docs():
  return [ROOT / name for name in DOCS] + sorted(ROOT.glob("experiments/*/*.md"))


def tracked():
  """Returns the paths that git tracks; a copy of the sources without git cannot be asked."""
  if shutil.which("git") is None:
    pytest.skip("git is not installed")
  run = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
  if run.returncode:
    pytest.skip("not a git checkout")
  return [path for path in run.stdout.splitlines() if (ROOT / path).is_file()]


def named_paths(text):
  """Returns the file paths with a folder that a text names, in code or as links."""
  found = re.findall(rf"(?<![\w/.:-])((?:[\w.-]+/)+[\w.-]+?{ENDINGS})(?![\w/])", text)
  return sorted({path for path in found if not path.startswith(OUTPUTS)})


def exists(path, document):
  return any((base / path).exists() for base in (ROOT, ROOT / "ega_jax", document.parent))


def test_the_readme_s_program_prints_what_the_readme_shows():
  text = (ROOT / "README.md").read_text()
  programs = re.findall(r"```python\n(.*?)```\n\nprints\n\n```text\n(.*?)```", text, re.S)
  assert len(programs) == 1 == text.count("```python")
  run = subprocess.run([sys.executable, "-c", programs[0][0]], capture_output=True, text=True, cwd=ROOT)
  assert run.stdout == programs[0][1] and run.stdout.count("\n") == 3, run.stderr
  shown = [list(map(float, re.findall(r"\d\.\d+", line))) for line in run.stdout.splitlines()]
  assert all(0 <= mine - exact < 0.005 for mine, exact in zip(shown[1], shown[2], strict=True)), "within a node"


@pytest.mark.parametrize("document", all_docs(), ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_and_programs_exist(document):
  text = document.read_text()
  missing = [path for path in named_paths(text) if not exists(path, document)]
  assert not missing
  for module in set(re.findall(r"python -m (launch\.\w+)", text)):
    assert importlib.util.find_spec(module) is not None, module


def test_a_file_that_does_not_exist_is_seen():
  paths = named_paths("see `decoding/beam.py`, [x](experiments/none/README.md), `runs/a/b.md` and launch/test.sh.")
  assert paths == ["decoding/beam.py", "experiments/none/README.md", "launch/test.sh"]
  assert [exists(path, ROOT / "README.md") for path in paths] == [True, False, True]


def test_named_tests_exist():
  pairs = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "BUILD_NOTES.md").read_text())
  assert len(pairs) > 40
  lost = [f"{path}::{name}" for path, name in pairs if f"def {name}(" not in (ROOT / path).read_text()]
  assert not lost


def test_every_equation_has_a_row():
  rows = re.findall(r"^\| \((\d+)\) \|", (ROOT / "BUILD_NOTES.md").read_text(), re.M)
  assert list(map(int, rows)) == [*range(2, 9), *range(13, 36)]


@pytest.mark.parametrize("document", all_docs(), ids=lambda path: str(path.relative_to(ROOT)))
def test_named_settings_exist(document):
  from ega_jax.data.market_config import WorldConfig
  from ega_jax.decoding.lists import ListConfig
  from ega_jax.models.ega_config import EGAConfig
  from ega_jax.stages.defaults import base_config
  from launch import experiment

  text, beside = document.read_text(), document.parent / "config.py"
  for record in (WorldConfig, ListConfig, EGAConfig):
    known = {field.name for field in dataclasses.fields(record)}
    assert set(re.findall(rf"`{record.__name__}\.(\w+)`", text)) <= known
  config = experiment.load(beside)[1] if beside.is_file() else base_config()
  keys = set(re.findall(r"`config\.(?!py`)([\w.]+\w)`", text)) | set(re.findall(r"--config\.([\w.]+\w)=", text))
  for key in keys - {"a.b", "x.y"}:
    node = config
    for part in key.split("."):
      assert part in node, key
      node = node[part]


def test_the_top_level_is_what_it_should_be():
  assert {path.split("/")[0] for path in tracked()} == TOP_LEVEL


def test_no_tracked_file_is_long_or_names_a_machine():
  machine = re.compile(r"(?:^|[\s\"'=(`])/(?:" + "|".join(["work", "home", "root", "Users", "mnt"]) + r")/\w")
  for path in tracked():
    try:
      text = (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
      continue  # a plot
    if not path.endswith(".json"):
      assert text.count("\n") <= 500, path
    found = machine.search(text)
    assert not found, f"{path}: {found.group()!r}"
