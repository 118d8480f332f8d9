"""A run of launch.train as the config and the final parameters that later binaries need."""

import json
import os
from pathlib import Path

import jax

from ega_jax.data import pipeline, records
from ega_jax.parallel.mesh import make_mesh
from ega_jax.parallel.partition import unbox
from ega_jax.training.checkpoint import check_same, final_exists, final_shapes, first_difference, flat, load_final
from ega_jax.training.structure import shapes
from launch import experiment


class Finals(dict):
  """{stage: final params} of the stages of a run that are complete; another stage is bad input, not a KeyError."""

  def __init__(self, workdir, found, stages):
    super().__init__(found)
    self.workdir, self.stages = workdir, stages

  def __missing__(self, name):
    if name not in self.stages:
      has = ", ".join(self.stages)
      raise ValueError(f"--workdir={self.workdir}: its experiment has no stage {name}, as configured; has: {has}")
    raise ValueError(f"--workdir={self.workdir}: stage {name} is not complete; run launch.train to its end")


def load_run(workdir, needed=(), *, partial=False):
  """Returns (config, {stage: final params}) of a workdir.

  Args: needed: names of stages; the default is all of the experiment. partial: those that are complete, as Finals.
  Raises: ValueError if one of them is not complete, damaged or of another config, or the folder is not a run.
  """
  workdir = Path(workdir)
  for name in ("experiment.json", "config.json"):
    if not (workdir / name).is_file():
      raise ValueError(f"--workdir={workdir}: no {name}; allowed: a folder that launch.train filled")
  path, stored = _read(workdir / "experiment.json")["experiment"], _read(workdir / "config.json")
  if not Path(path).is_file():
    raise ValueError(f"{workdir / 'experiment.json'}: {path} is not there; allowed: its present place, written there")
  module, config = experiment.load(path)
  with config.unlocked():
    update(config, stored, path)
  if new := sorted(flat(experiment.as_dict(config)).keys() - flat(stored).keys()):
    raise ValueError(f"{workdir}/config.json has no {new[0]!r}: {path} was changed since; allowed: the older code")
  if (workdir / "data.json").is_file():  # runs of older code have none, and what they read cannot be known
    check_data(workdir, config)
  stages = module.stages(config, str(workdir))
  names = [stage.name for stage in stages]
  absent = [name for name in needed if name not in names]
  if absent:
    raise ValueError(f"--workdir={workdir}: its experiment {path} has no stage {absent[0]!r}; has: {', '.join(names)}")
  if partial:
    needed = [name for name in names if final_exists(workdir / name)]
  missing = [name for name in needed or names if not final_exists(workdir / name)]
  if missing:
    raise ValueError(f"--workdir={workdir}: stages {', '.join(missing)} are not complete; run launch.train to its end")
  check_shapes(workdir, stages, needed or names)
  mesh = make_mesh({"data": -1})
  found = {name: load_final(workdir / name, mesh)[0] for name in needed or names}
  return config, Finals(workdir, found, names) if partial else found


def check_shapes(workdir, stages, needed):
  """Raises ValueError where the parameters of a stage of `needed` are not those of the config's modules: its name, the
  path of the first one, both shapes. Reads no parameters and compiles nothing.
  """
  rng, previous = jax.eval_shape(lambda: jax.random.key(0)), {}
  for stage in stages[: max(at + 1 for at, stage in enumerate(stages) if stage.name in needed)]:
    params = unbox(jax.eval_shape(stage.shapes or stage.init, rng, dict(previous)))
    if final_exists(workdir / stage.name):
      stored = final_shapes(workdir / stage.name)[0]
      made = {name: stored[name] for name in stored.keys() - params.keys()}  # by the stage's finish
      params = params | made
      if stage.name in needed and (found := first_difference(shapes(stored), shapes(params))):
        path, there, here = found
        raise ValueError(
          f"{workdir / stage.name}: {path} is {there}, and {here} by {workdir / 'config.json'}; allowed: the config "
          "that the stage was trained with"
        )
    previous[stage.name] = params


def _read(path):
  """Returns what a JSON file holds; raises ValueError naming it."""
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path}: not JSON, or truncated ({error})") from error


def check_data(workdir, config):
  """Notes in the workdir which prepared data it is of, and refuses others of the same name. An experiment without
  `config.data`, or whose data are not there, is left to its stages.
  """
  if directory := _data(config):
    check_same(Path(workdir) / "data.json", records.identity(directory))


def check_files(config):
  """Raises ValueError where a file of the prepared data, if there are any, is damaged: before hours of training."""
  if directory := _data(config):
    pipeline.check_files(directory)


def _data(config):
  """Returns the folder of prepared data, None where there is none."""
  directory = config.get("data")
  return directory if isinstance(directory, str) and os.path.isfile(os.path.join(directory, "schema.json")) else None


def update(config, stored, path="the experiment", prefix=""):
  """Sets every key of `config` to the stored value, whose types JSON may have widened."""
  for key, value in stored.items():
    if key not in config:
      raise ValueError(f"config key {prefix}{key!r} of the run is unknown to {path}, which was changed since")
    if isinstance(value, dict):
      update(config[key], value, path, f"{prefix}{key}.")
    else:
      config[key] = type(config[key])(value) if config[key] is not None and value is not None else value
