"""Trains an experiment, stage by stage. The same command continues a run that was killed.

python -m launch.train --experiment=experiments/NAME/config.py --workdir=DIR [--config.a.b=value] [--stages=a,b]
  [--mesh=data=2,fsdp=4] [--dry_run] [--output=FILE.json]
Several processes: --coordinator=HOST:PORT --num_processes=N --process_id=I, or --coordinator=auto where the cluster
tells (TPU pods, SLURM). Exit codes: 0; 1 if the run failed or was asked to end; 2 for bad input.
"""

import math
from pathlib import Path

import jax
from absl import flags

from ega_jax.parallel.mesh import make_mesh, parse_mesh
from ega_jax.parallel.partition import path_name, tree_shardings
from ega_jax.training import loop
from ega_jax.training.checkpoint import check_same, write_json
from ega_jax.training.state import split, trainable_mask
from ega_jax.training.writers import read_metrics
from launch import binary, experiment
from launch.finished import check_data, check_files


def define_flags():
  """Defines the flags; not on import, so that another binary's module can be imported beside this one."""
  flags.DEFINE_string("experiment", None, "Python file with get_config() and stages(config, workdir).", required=True)
  flags.DEFINE_string("workdir", None, "Folder of checkpoints and metrics.")
  flags.DEFINE_string("stages", "", "Stages to run, comma-separated; what they need must be complete. Default: all.")
  flags.DEFINE_string("mesh", "", "Sizes of mesh axes, such as data=2,fsdp=4. Default: config.mesh, or data=-1.")
  flags.DEFINE_bool("replicate_uneven", False, "Keep dimensions whole that their mesh axes do not divide.")
  flags.DEFINE_integer("log_every", 50, "Steps between lines of metrics.", lower_bound=1)
  flags.DEFINE_integer("checkpoint_every", 1000, "Steps between checkpoints.", lower_bound=1)
  flags.DEFINE_integer("keep", 2, "Step checkpoints kept per stage.", lower_bound=1)
  flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, or auto. Empty: one process.")
  flags.DEFINE_integer("num_processes", None, "Processes of the run.", lower_bound=1)
  flags.DEFINE_integer("process_id", None, "This process's number, from 0.", lower_bound=0)
  flags.DEFINE_bool("dry_run", False, "Print stages, parameters and shardings, and stop.")
  flags.DEFINE_string("output", "", "JSON report.")


def main(overrides):
  """Returns the exit code."""
  values = flags.FLAGS
  if values.workdir is None and not values.dry_run:
    raise ValueError("--workdir is missing; allowed: a folder")
  _join(values)
  if not jax.process_index():
    binary.check_output(values.output)
  if not values.dry_run:
    binary.check_output(values.workdir, folder=True, flag="--workdir")
  module, config = experiment.load(values.experiment, overrides)
  settings = experiment.as_dict(config)
  mesh = make_mesh(parse_mesh(values.mesh) or dict(config.get("mesh", {})))
  stages = module.stages(config, values.workdir)
  only = experiment.selected(stages, values.stages)
  if values.dry_run:
    reports = [_describe(*entry, mesh) for entry in experiment.abstract_stages(stages)]
  else:
    loop.planned(stages, only, values.workdir)
    check_files(config)
    # Last of the checks, as they write what they compare: a refused command must not bind the workdir to its config.
    check_same(Path(values.workdir) / "config.json", settings)
    check_data(Path(values.workdir), config)
    reports = _train(stages, only, config, mesh)
  if not jax.process_index():
    report = {"experiment": values.experiment, "seed": config.get("seed", 0), "devices": mesh.size, "config": settings}
    binary.write_report(values.output, report | {"stages": reports})
  return 0


def _join(values):
  """Joins the other processes, if there are any; before anything else asks jax for devices."""
  given = (values.num_processes is not None, values.process_id is not None)
  if values.coordinator == "auto":
    jax.distributed.initialize()
  elif values.coordinator and all(given):
    if values.process_id >= values.num_processes:
      raise ValueError(f"--process_id={values.process_id}; allowed: 0 to {values.num_processes - 1}")
    jax.distributed.initialize(values.coordinator, values.num_processes, values.process_id)
  elif values.coordinator or any(given):
    raise ValueError("allowed: --coordinator, --num_processes and --process_id together, or --coordinator=auto")


def _train(stages, only, config, mesh):
  """Runs the stages and returns a report of each."""
  values = flags.FLAGS
  options = loop.Options(
    seed=config.get("seed", 0),
    log_every=values.log_every,
    checkpoint_every=values.checkpoint_every,
    keep=values.keep,
    only=only,
    replicate_uneven=values.replicate_uneven,
  )
  workdir = Path(values.workdir)
  # Where the binaries that take only a workdir find the experiment.
  write_json(workdir / "experiment.json", binary.provenance() | {"experiment": str(Path(values.experiment).resolve())})
  finals = loop.run(stages, workdir, mesh, options=options)
  if jax.process_index():
    return []
  reports = []
  for name, params in finals.items():
    lines = read_metrics(workdir / name / "metrics.jsonl")
    reports.append({"name": name, "parameters": experiment.count(params)[0], "metrics": lines[-2:]})
  return reports


def _describe(stage, abstract, names, mesh):
  """Prints one stage and returns the same as a dict."""
  shardings = tree_shardings(abstract.params, names, mesh, replicate_uneven=flags.FLAGS.replicate_uneven)
  numbers, size = experiment.count(abstract.params)
  trained = 0
  if stage.num_steps:
    mask = trainable_mask(abstract.params, stage.trainable)
    trained = experiment.count(split(abstract.params, mask)[0])[0]
  print(f"{stage.name}: {stage.num_steps} steps, {numbers:,} numbers ({size / 2**20:.1f} MiB), {trained:,} trained")
  leaves = []
  flat = jax.tree_util.tree_flatten_with_path(abstract.params)[0]
  for (path, leaf), sharding in zip(flat, jax.tree.leaves(shardings), strict=True):
    part = sharding.shard_shape(leaf.shape)
    entry = {"path": path_name(path), "shape": leaf.shape, "dtype": str(leaf.dtype), "sharding": str(sharding.spec)}
    leaves.append(entry)
    share = math.prod(leaf.shape) / max(math.prod(part), 1)
    print(f"  {path_name(path):48} {leaf.dtype}{list(leaf.shape)} {sharding.spec} 1/{share:.0f} per device")
  return {"name": stage.name, "num_steps": stage.num_steps, "parameters": numbers, "trained": trained, "leaves": leaves}


if __name__ == "__main__":
  define_flags()
  binary.run(main)
