"""--output is tried before any work, by every binary that has one, and nothing is left by it."""

import importlib
import os
import types

import pytest
from absl.testing import flagsaver

from launch import binary, prepare_data, tokenize

NOWHERE = "/proc/no_such/report.json"


@pytest.mark.parametrize("name", ["auction", "choose", "compile", "evaluate", "generate", "train"])
def test_a_binary_refuses_it_first(monkeypatch, name):
  module = importlib.import_module(f"launch.{name}")
  values = {"output": NOWHERE, "workdir": "no_such_run", "dry_run": True, "payment": "price"}
  values |= {"coordinator": "", "num_processes": None, "process_id": None}  # all that is looked at before
  monkeypatch.setattr(module.flags, "FLAGS", types.SimpleNamespace(**values))
  with pytest.raises(ValueError, match=f"--output={NOWHERE}: /proc takes no file"):
    module.main([])


def test_the_binaries_that_write_folders_refuse_it_first(monkeypatch):
  prepare_data.flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(output=NOWHERE, size="tiny"):
    monkeypatch.setattr(prepare_data, "_marketplace", lambda config: 1 / 0)
    with pytest.raises(ValueError, match=f"--output={NOWHERE}: /proc takes no file"):
      prepare_data.main([])
  options = tokenize.parse(["tokenize", "--embeddings=no_such.npy", f"--output={NOWHERE}"])
  with pytest.raises(ValueError, match=f"--output={NOWHERE}: /proc takes no file"):
    tokenize.run(options)


def test_what_can_be_written_is_left_as_it_was(tmp_path):
  file = tmp_path / "file"
  file.write_text("kept")
  for path in (tmp_path / "new" / "deep.json", file):
    binary.check_output(str(path))
  for path in (tmp_path / "new" / "folder", tmp_path):
    binary.check_output(str(path), folder=True)
  binary.check_output("")
  assert os.listdir(tmp_path) == ["file"] and file.read_text() == "kept"


def test_another_kind_is_refused(tmp_path):
  file = tmp_path / "file"
  file.write_text("kept")
  for path, folder, message in (
    (tmp_path, False, "is a folder; allowed: a file"),
    (file, True, "is a file; allowed: a folder"),
    (file / "below.json", False, f"{file} takes no file"),
  ):
    with pytest.raises(ValueError, match=message):
      binary.check_output(path, folder)
