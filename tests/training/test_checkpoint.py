"""Files of a stage that several processes write."""

import json
import os

from ega_jax.training.checkpoint import write_json


def test_two_commands_may_write_one_file_at_once(tmp_path, monkeypatch):
  processes, replace, path = [1], os.replace, tmp_path / "file.json"

  def meanwhile(source, target):
    if len(processes) == 1:
      processes.append(2)
      write_json(path, {"by": 2})
    replace(source, target)

  monkeypatch.setattr(os, "getpid", lambda: processes[-1])
  monkeypatch.setattr(os, "replace", meanwhile)
  write_json(path, {"by": 1})
  assert json.loads(path.read_text()) == {"by": 1} and list(tmp_path.iterdir()) == [path]
