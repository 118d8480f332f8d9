"""launch.compile: what it reads off a compiled program, and its refusals. The TPU compiler runs where it is."""

import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import launch.compile
from ega_jax.parallel.mesh import make_mesh
from launch import experiment

TOY = Path(__file__).parents[1] / "training" / "toy_experiment.py"
HLO = """
  %all-reduce.1 = f32[8]{0} all-reduce(%add), replica_groups={}
  %all-gather-start = (f32[2]{0}, f32[8]{0}) all-gather-start(%p), dimensions={0}
  %all-gather-done = f32[8]{0} all-gather-done(%all-gather-start)
  %fusion = f32[8]{0} fusion(%all-reduce.1), calls=%all-reduce-computation
  ROOT %rs = f32[1]{0} reduce-scatter(%x), dimensions={0}
"""


def test_collectives_are_counted_by_kind_and_pairs_once():
  assert launch.compile.collectives(HLO) == {"all-reduce": 1, "all-gather": 1, "reduce-scatter": 1}
  one = make_mesh({}, jax.devices()[:1])
  compiled = jax.jit(jnp.sum, in_shardings=NamedSharding(one, P())).lower(jnp.ones(8)).compile()
  assert launch.compile.collectives(compiled.as_text()) == {}


def test_measure_reads_the_step_of_a_stage():
  module, config = experiment.load(TOY)
  stage, abstract, names = next(experiment.abstract_stages(module.stages(config, None)))
  mesh = make_mesh({}, jax.devices()[:1])
  report = launch.compile.measure(stage, abstract, names, module.batch_shapes(config, "regress"), mesh, "v5e:1x1")
  numbers = 16 * (8 + 1 + 1)  # the network's
  assert report["parameters"] == numbers + 4 * 3
  # Parameters and two moments, codes, step and first bad step, Adam's count, key, and a batch of 32 rows of 8 + 1.
  assert report["state_bytes_per_chip"] == 4 * (3 * numbers + 4 * 3 + 3 + 2 + 32 * 9)
  assert report["flops_per_chip"] > 2 * 2 * 32 * 16 * 8  # forward and one product of the backward pass
  assert report["collectives"] == {} and report["compiler_seconds"] > 0


def test_a_batch_that_the_devices_cannot_share_is_refused():
  mesh = types.SimpleNamespace(shape={"dcn": 1, "data": 2, "fsdp": 2, "tensor": 2})
  rows = lambda count: {"x": jax.ShapeDtypeStruct((count, 3), jnp.float32)}
  launch.compile._check_batch(rows(8), mesh, "a")
  with pytest.raises(ValueError, match="stage 'a': a batch of 6 rows over 4 devices; allowed: a multiple"):
    launch.compile._check_batch(rows(6), mesh, "a")


def test_roofline_is_the_larger_of_compute_and_memory():
  report = {"flops_per_chip": 197e9, "bytes_accessed_per_chip": 0.819e9}
  report |= {"bytes_per_chip": 2**30, "optimal_seconds": 3e-3}
  bounds = launch.compile.roofline(report, "v5e")
  assert bounds["compute_seconds"] == pytest.approx(1e-3) and bounds["memory_seconds"] == pytest.approx(1e-3)
  assert bounds["estimate_over_roofline"] == pytest.approx(3) and bounds["memory_share"] == 1 / 16
  assert launch.compile.roofline(report | {"bytes_accessed_per_chip": 1e9}, "v5e")["bound_by"] == "memory"


def call(*args, topology="v5e:4x4"):
  env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
  command = [sys.executable, "-m", "launch.compile", f"--experiment={TOY}", f"--topology={topology}", *args]
  return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def test_compiles_for_a_topology_or_says_what_is_missing(tmp_path):
  output = tmp_path / "compile.json"
  ran = call("--mesh=data=4,fsdp=4", "--stages=regress", "--config.batch_size=64", f"--output={output}")
  if importlib.util.find_spec("libtpu") is None:
    assert ran.returncode == 2
    assert "libtpu is not installed; allowed: an environment with pip install '.[tpu]'" in ran.stderr
    return
  assert ran.returncode == 0, ran.stderr
  report = json.loads(output.read_text())
  assert report["chips"] == 16 and report["mesh"] == {"data": 4, "fsdp": 4}
  assert report["stages"][0]["collectives"]["all-reduce"] > 0
  assert call(topology="v5e:5x7").returncode == 2
