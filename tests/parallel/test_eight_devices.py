"""1 device == 8 devices after 20 steps, also when moved in between; donation, shardings, one compilation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np


def report_of(script, workdir):
  """Returns the JSON object that a script prints in the end, run on eight fake devices."""
  flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
  path = os.pathsep.join(filter(None, sys.path))
  env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
  command = [sys.executable, str(Path(__file__).with_name(script)), str(workdir)]
  ran = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, timeout=600)
  assert ran.returncode == 0
  return json.loads(ran.stdout.splitlines()[-1])


def test_eight_devices_train_as_one(tmp_path):
  report = report_of("run_eight_devices.py", tmp_path)
  assert set(report["differences"]) == {"eight", "moved"}
  assert max(report["differences"].values()) < 1e-5
  assert report["param"] == report["moment"] == report["final"] == ["fsdp", "tensor"]
  assert report["batch_shard"] == [8, 8]  # 32 rows over data and fsdp
  assert report["donated"] and report["compilations"] == 1


def test_the_generator_pretrains_on_eight_devices_as_on_one(tmp_path):
  report = report_of("run_recipe_on_eight.py", tmp_path)
  assert len(report["losses"]["one"]) == 6
  np.testing.assert_allclose(report["losses"]["eight"], report["losses"]["one"], rtol=1e-4)
  assert report["sharded"]["one"] == 0 and report["sharded"]["eight"] >= 10
