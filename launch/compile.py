"""Compiles an experiment's training steps for a TPU topology, with no TPU, and prints what they cost per chip.

python -m launch.compile --experiment=FILE --topology=v5e:4x4 [--mesh=fsdp=16] [--stages=a] [--output=FILE.json]
Needs libtpu (pip install '.[tpu]'). The experiment gives batch_shapes(config, stage name); no data is read.
Sharding, memory, collectives and cost are the real compiler's; nothing is run. Exit codes: 0, 1 compilation failed,
2 bad input or no libtpu.
"""

import importlib.util
import os
import re
import sys
import time

# Before jax starts: no TPU is asked for, its compiler only.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
from absl import flags  # noqa: E402

from ega_jax.parallel.mesh import make_mesh, parse_mesh  # noqa: E402
from ega_jax.parallel.partition import batch_parts, tree_shardings  # noqa: E402
from ega_jax.parallel.rules import flax_rules  # noqa: E402
from ega_jax.training.state import state_shardings  # noqa: E402
from ega_jax.training.step import compile_step  # noqa: E402
from launch import binary, experiment  # noqa: E402

# Peak bf16 FLOP/s, HBM bytes/s and HBM bytes of a chip (cloud.google.com/tpu/docs, system architecture pages).
CHIPS = {
  "v4": (275e12, 1.228e12, 32 * 2**30),
  "v5e": (197e12, 0.819e12, 16 * 2**30),
  "v5p": (459e12, 2.765e12, 95 * 2**30),
  "v6e": (918e12, 1.64e12, 32 * 2**30),
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def define_flags():
  """Defines the flags; not on import, so that tests can import several binaries."""
  flags.DEFINE_string("experiment", None, "Python file with get_config(), stages() and batch_shapes().", required=True)
  flags.DEFINE_string("topology", None, "Chip and shape, such as v5e:4x4, v5p:8x8x8 or v6e:16x16.", required=True)
  flags.DEFINE_string("mesh", "", "Sizes of mesh axes, such as data=32,fsdp=16. Default: config.mesh, or data=-1.")
  flags.DEFINE_string("stages", "", "Names of the stages to compile, comma-separated. Default: all that train.")
  flags.DEFINE_bool("replicate_uneven", False, "Keep dimensions whole that their mesh axes do not divide.")
  flags.DEFINE_string("output", "", "JSON report.")


def main(overrides):
  """Returns the exit code."""
  values = flags.FLAGS
  binary.check_output(values.output)
  devices = topology_devices(values.topology)
  module, config = experiment.load(values.experiment, overrides)
  if not hasattr(module, "batch_shapes"):
    raise ValueError(f"--experiment={values.experiment}: the module has no batch_shapes(config, stage name)")
  mesh = make_mesh(parse_mesh(values.mesh) or dict(config.get("mesh", {})), devices)
  stages = module.stages(config, None)
  chosen = experiment.selected(stages, values.stages)
  reports = []
  for stage, abstract, names in experiment.abstract_stages(stages):
    if stage.num_steps and (not chosen or stage.name in chosen):
      batch = module.batch_shapes(config, stage.name)
      _check_batch(batch, mesh, stage.name)
      try:
        report = measure(stage, abstract, names, batch, mesh, values.topology, values.replicate_uneven)
      except jax.errors.JaxRuntimeError as error:  # the program is larger than the chip's memory, mostly
        print(f"failed: stage {stage.name!r} does not compile for {values.topology}: {error}", file=sys.stderr)
        return binary.FAILED
      reports.append(report)
      show(report)
  shape = {axis: size for axis, size in mesh.shape.items() if size > 1}
  report = {"experiment": values.experiment, "topology": values.topology, "chips": mesh.size, "mesh": shape}
  binary.write_report(values.output, report | {"stages": reports})
  return 0


def _check_batch(batch, mesh, stage):
  """Raises ValueError unless the devices share the rows of a batch evenly."""
  parts = batch_parts(mesh)
  for rows in {leaf.shape[0] for leaf in jax.tree.leaves(batch)}:
    if rows % parts:
      raise ValueError(f"stage {stage!r}: a batch of {rows} rows over {parts} devices; allowed: a multiple, see --mesh")


def topology_devices(name):
  """Returns the device descriptions of a TPU topology.

  Raises:
    ValueError: no libtpu, or a topology that it does not know.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError("libtpu is not installed; allowed: an environment with pip install '.[tpu]'")
  chip, _, shape = name.partition(":")
  if chip not in CHIPS or not re.fullmatch(r"\d+(x\d+)+", shape):
    raise ValueError(f"--topology={name}; allowed: one of {', '.join(CHIPS)}, a colon and a shape, such as v5p:8x8x8")
  from jax.experimental import topologies

  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
  except Exception as error:  # libtpu raises what it likes for a shape it does not know
    raise ValueError(f"--topology={name}: libtpu refuses it: {error}") from error


def measure(stage, abstract, names, batch, mesh, topology, replicate_uneven=False):
  """Returns what the compiler says of a stage's training step: bytes, flops, collectives, and seconds it took."""
  with jax.set_mesh(mesh), nn.logical_axis_rules(flax_rules()):
    params = tree_shardings(abstract.params, names, mesh, replicate_uneven=replicate_uneven)
    step = compile_step(stage, mesh, state_shardings(abstract, params, mesh))
    start = time.monotonic()
    compiled = step.lower(abstract, batch).compile()
    seconds = time.monotonic() - start
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  live = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
  report = {
    "name": stage.name,
    "parameters": experiment.count(abstract.params)[0],
    "compiler_seconds": seconds,
    "state_bytes_per_chip": memory.argument_size_in_bytes,
    "temporary_bytes_per_chip": memory.temp_size_in_bytes,
    "bytes_per_chip": live - memory.alias_size_in_bytes,  # donated inputs and outputs share memory
    "flops_per_chip": cost.get("flops", 0.0),
    "bytes_accessed_per_chip": cost.get("bytes accessed", 0.0),
    "optimal_seconds": cost.get("optimal_seconds"),
    "collectives": collectives(compiled.as_text()),
  }
  return report | roofline(report, topology.partition(":")[0])


def collectives(hlo):
  """Returns {kind: occurrences} in a compiled program's text; those in a loop's body count once."""
  counts = {}
  for kind in COLLECTIVES:
    # Asynchronous ones are a pair -start, -done: the first is counted.
    counts[kind] = len(re.findall(rf"= .*? {kind}(?:-start)?\(", hlo))
  return {kind: number for kind, number in counts.items() if number}


def roofline(report, chip):
  """Returns the chip's bounds on a step's time, and the memory share.

  compute_seconds = flops / peak bf16 FLOP/s, memory_seconds = bytes accessed / bandwidth; the larger is the roofline.
  """
  peak, bandwidth, capacity = CHIPS[chip]
  compute, memory = report["flops_per_chip"] / peak, report["bytes_accessed_per_chip"] / bandwidth
  bound = max(compute, memory)
  estimate = report["optimal_seconds"]
  known = estimate is not None and estimate > 0 and bound > 0
  return {
    "memory_share": report["bytes_per_chip"] / capacity,
    "compute_seconds": compute,
    "memory_seconds": memory,
    "bound_by": "compute" if compute >= memory else "memory",
    "estimate_over_roofline": estimate / bound if known else None,
  }


def show(report):
  """Prints a stage's report."""
  mib = 2**20
  print(f"{report['name']}: {report['parameters']:,} parameters, compiled in {report['compiler_seconds']:.1f} s")
  live, state, temporary = (report[f"{kind}bytes_per_chip"] / mib for kind in ("", "state_", "temporary_"))
  share = report["memory_share"]
  print(f"  memory per chip  {live:,.1f} MiB ({share:.1%}): state {state:,.1f}, temporary {temporary:,.1f}")
  print(f"  flops per chip   {report['flops_per_chip']:.3e}; bytes accessed {report['bytes_accessed_per_chip']:.3e}")
  compute, memory = report["compute_seconds"], report["memory_seconds"]
  print(f"  roofline         compute {compute * 1e6:.1f} us, memory {memory * 1e6:.1f} us: {report['bound_by']}-bound")
  if report["estimate_over_roofline"]:
    ratio = report["estimate_over_roofline"]
    print(f"  compiler's time  {report['optimal_seconds'] * 1e6:.1f} us, {ratio:.2f} x roofline")
  found = ", ".join(f"{number} {kind}" for kind, number in report["collectives"].items())
  print(f"  collectives      {found or 'none'}")


if __name__ == "__main__":
  define_flags()
  binary.run(main)
