"""A run of launch.train as the config and the final parameters that later binaries need."""

import json
from pathlib import Path

from ega_jax.parallel.mesh import make_mesh
from ega_jax.training.checkpoint import final_exists, load_final
from launch import experiment


class Finals(dict):
  """{stage: final params} of the stages of a run that are complete; another stage is bad input, not a KeyError."""

  def __init__(self, workdir, found):
    super().__init__(found)
    self.workdir = workdir

  def __missing__(self, name):
    raise ValueError(f"--workdir={self.workdir}: stage {name} is not complete; run launch.train to its end")


def load_run(workdir, needed=(), *, partial=False):
  """Returns (config, {stage: final params}) of a workdir.

  Args: needed: names of stages; the default is all of the experiment. partial: those that are complete, as Finals.
  Raises: ValueError if one of them is not complete, or the folder is not a run.
  """
  workdir = Path(workdir)
  for name in ("experiment.json", "config.json"):
    if not (workdir / name).is_file():
      raise ValueError(f"--workdir={workdir}: no {name}; allowed: a folder that launch.train filled")
  path = json.loads((workdir / "experiment.json").read_text())["experiment"]
  module, config = experiment.load(path)
  with config.unlocked():
    update(config, json.loads((workdir / "config.json").read_text()), path)
  names = [stage.name for stage in module.stages(config, str(workdir))]
  absent = [name for name in needed if name not in names]
  if absent:
    raise ValueError(f"--workdir={workdir}: its experiment {path} has no stage {absent[0]!r}; has: {', '.join(names)}")
  if partial:
    needed = [name for name in names if final_exists(workdir / name)]
  missing = [name for name in needed or names if not final_exists(workdir / name)]
  if missing:
    raise ValueError(f"--workdir={workdir}: stages {', '.join(missing)} are not complete; run launch.train to its end")
  mesh = make_mesh({"data": -1})
  found = {name: load_final(workdir / name, mesh)[0] for name in needed or names}
  return config, Finals(workdir, found) if partial else found


def update(config, stored, path="the experiment", prefix=""):
  """Sets every key of `config` to the stored value, whose types JSON may have widened."""
  for key, value in stored.items():
    if key not in config:
      raise ValueError(f"config key {prefix}{key!r} of the run is unknown to {path}, which was changed since")
    if isinstance(value, dict):
      update(config[key], value, path, f"{prefix}{key}.")
    else:
      config[key] = type(config[key])(value) if config[key] is not None and value is not None else value
