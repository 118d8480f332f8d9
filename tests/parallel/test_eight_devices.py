"""1 device == 8 devices after 20 steps, also when moved in between; donation, shardings, one compilation."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_eight_devices_train_as_one(tmp_path):
  flags = "--xla_force_host_platform_device_count=8"
  path = os.pathsep.join(filter(None, sys.path))
  env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
  script = Path(__file__).with_name("run_eight_devices.py")
  command = [sys.executable, str(script), str(tmp_path)]
  ran = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, timeout=200)
  assert ran.returncode == 0
  report = json.loads(ran.stdout.splitlines()[-1])
  assert set(report["differences"]) == {"eight", "moved"}
  assert max(report["differences"].values()) < 1e-5
  assert report["param"] == report["moment"] == report["final"] == ["fsdp", "tensor"]
  assert report["batch_shard"] == [8, 8]  # 32 rows over data and fsdp
  assert report["donated"] and report["compilations"] == 1
