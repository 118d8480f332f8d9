"""Experiments as files: a module with get_config() and stages(config, workdir), and overrides of its config."""

import ast
import difflib
import importlib.util
import json
import sys
from pathlib import Path

import jax
import ml_collections

from ega_jax.training.loop import abstract_state


def load(path, overrides=()):
  """Returns (module, config) of an experiment file, `overrides` ("--config.a.b=value") applied and the config locked.

  Raises:
    ValueError: no such file, a module without get_config or stages, an unknown key, a value of another type.
  """
  file = Path(path)
  if not file.is_file() or file.suffix != ".py":
    raise ValueError(f"--experiment={path}: no such file, or no Python file")
  # The name must not change between runs: checkpoints name the types of records.
  name = f"ega_experiment_{file.resolve().parent.name}_{file.stem}"
  spec = importlib.util.spec_from_file_location(name, file)
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  spec.loader.exec_module(module)
  if missing := [function for function in ("get_config", "stages") if not hasattr(module, function)]:
    raise ValueError(f"--experiment={path}: the module has no {missing[0]}()")
  config = module.get_config()
  for argument in overrides:
    override(config, argument)
  return module, config.lock()


def override(config, argument):
  """Sets the key of "--config.a.b=value" in `config`; the value must fit the type that is there."""
  key, separator, text = argument.removeprefix("--config.").partition("=")
  if not separator:
    raise ValueError(f"{argument}: allowed: --config.{key}=value")
  *parents, last = key.split(".")
  inner = config
  for part in [*parents, last]:
    if not isinstance(inner, ml_collections.ConfigDict) or part not in inner:
      raise ValueError(_unknown_key(config, key))
    inner = inner[part] if part is not last else inner
  inner[last] = _cast(key, text, inner[last])


def _unknown_key(config, key):
  known = list(_keys(config))
  close = difflib.get_close_matches(key, known, 3) or known[:20]
  return f"config key {key!r} is unknown; did you mean: {', '.join(close)}?"


def _keys(config, prefix=""):
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from _keys(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}"


def _cast(key, text, old):
  if isinstance(old, str):
    return text
  if isinstance(old, ml_collections.ConfigDict):
    raise ValueError(f"config key {key!r} is a group; allowed: one of its keys, {', '.join(_keys(old))}")
  try:
    value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
  except (ValueError, SyntaxError):
    value = text
  if old is None or isinstance(value, type(old)) and isinstance(value, bool) == isinstance(old, bool):
    return value
  if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if isinstance(old, tuple | list) and isinstance(value, tuple | list):
    return type(old)(value)
  raise ValueError(f"config key {key!r} = {text!r}; allowed: a value of type {type(old).__name__}, such as {old!r}")


def as_dict(config):
  """Returns what of `config` decides the numbers, as JSON types: all but `mesh`, which only lays them out."""
  values = json.loads(config.to_json_best_effort())
  values.pop("mesh", None)
  return values


def abstract_stages(stages):
  """Yields (stage, abstract TrainState, {path: logical axis names}) of all stages, computing nothing.

  Later stages see the shapes that earlier ones start with.

  Raises:
    ValueError: a stage that starts from what only the finish of an earlier one makes.
  """
  rng = jax.eval_shape(lambda: jax.random.key(0))
  previous, names = {}, {}
  for stage in stages:
    try:
      abstract, names = abstract_state(stage, rng, dict(previous), names)
    except KeyError as error:
      made = f"{error} is absent from the parameters that earlier stages start with"
      raise ValueError(f"stage {stage.name!r}: {made}; allowed: leaves that exist (as zeros) from init on") from error
    previous[stage.name] = abstract.params
    yield stage, abstract, names


def selected(stages, text):
  """Returns the stage names of "a,b".

  Raises:
    ValueError: an unknown name.
  """
  known = [stage.name for stage in stages]
  chosen = tuple(filter(None, (text or "").split(",")))
  for name in chosen:
    if name not in known:
      raise ValueError(f"--stages: {name!r} is unknown; allowed: {', '.join(known)}")
  return chosen


def count(tree):
  """Returns (numbers, bytes) of the leaves of `tree`."""
  leaves = jax.tree.leaves(tree)
  return sum(leaf.size for leaf in leaves), sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
