"""A stage's files: step checkpoints (state and data position together), the final parameters, and what they belong to.

STAGE/fingerprint.json   what the stage is: shapes, seed, regular expression, processes
STAGE/steps/N/           the state after N steps and every process's data iterator
STAGE/final/, final.json the parameters that later stages and users get, and their structure
Each appears whole or not at all: it is written beside and renamed.
"""

import contextlib
import json
import os
from pathlib import Path

import jax
from jax.sharding import NamedSharding

from ega_jax.parallel.partition import tree_shardings
from ega_jax.training.structure import describe, nested, rebuild, restructure


def write_json(path, value, sort_keys=True):
  """Writes `value` atomically, by the first process only."""
  if jax.process_index():
    return
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f"{path.name}.{os.getpid()}.writing")  # two commands may train in one workdir
  beside.write_text(json.dumps(value, indent=1, sort_keys=sort_keys) + "\n")
  os.replace(beside, path)


def flat(value, prefix=""):
  """Returns {"a.b": leaf} of nested dicts; an empty dict is a leaf."""
  if not isinstance(value, dict) or not value:
    return {prefix: value}
  out = {}
  for key, inner in value.items():
    out |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
  return out


def check_same(path, value, ignore=()):
  """Writes `value` to `path` if nothing is there, and otherwise requires that it is the same.

  Raises:
    ValueError: names the file, the first differing key, and both values.
  """
  if not Path(path).exists():
    write_json(path, value)
    return
  try:
    stored = flat(json.loads(Path(path).read_text()))
  except json.JSONDecodeError as error:
    raise ValueError(f"{path} is not JSON: {error}") from error
  if found := first_difference(stored, flat(json.loads(json.dumps(value))), ignore):
    key, old, new = found
    raise ValueError(f"{path}: {key} is {old!r} there and {new!r} now; allowed: the same value, or another workdir")


def first_difference(old, new, ignore=()):
  """Returns (key, value in `old`, value in `new`), "absent" where there is none, of the first key in which two flat
  dicts differ, or None.
  """
  for key in sorted((old.keys() | new.keys()) - set(ignore)):
    if old.get(key, "absent") != new.get(key, "absent"):
      return key, old.get(key, "absent"), new.get(key, "absent")
  return None


class StepCheckpoints:
  """The step checkpoints of one stage, in its folder `directory`; the newest `keep` of them stay."""

  def __init__(self, directory, keep=2):
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
    self._directory = Path(directory) / "steps"
    self._manager = ocp.CheckpointManager(self._directory.absolute(), options=options)

  def latest(self):
    """Returns the newest step that is whole on disk, or None."""
    return self._manager.latest_step()

  def save(self, step, state, iterator):
    """Saves state and data position after `step`; a step that is there already is left alone."""
    import grain
    import orbax.checkpoint as ocp

    if self.latest() == step:
      return
    data = grain.checkpoint.CheckpointSave(_grain_like(iterator))
    args = ocp.args.Composite(state=ocp.args.StandardSave(nested(state)), data=data)
    self._manager.save(step, args=args, force=True)

  def restore(self, step, abstract, shardings, iterator):
    """Returns the state after `step`, laid out by `shardings`, and sets `iterator` to its position.

    Raises: ValueError: the checkpoint is damaged.
    """
    import grain
    import orbax.checkpoint as ocp

    target = _targets(abstract, shardings)
    data = grain.checkpoint.CheckpointRestore(_grain_like(iterator))
    args = ocp.args.Composite(state=ocp.args.StandardRestore(nested(target)), data=data)
    with _named(self._directory / str(step), "without this folder the stage goes on from the checkpoint before"):
      found = self._manager.restore(step, args=args)["state"]
    return restructure(target, found)

  def preempted(self, step):
    """Returns whether all processes, of which at least one was told to end, are to stop after `step`."""
    return self._manager.reached_preemption(step)

  def close(self):
    """Waits until everything is on disk."""
    self._manager.wait_until_finished()
    self._manager.close()


def _targets(tree, shardings):
  return jax.tree.map(lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to), tree, shardings)


class _JsonState:
  """What grain's checkpoint handler asks of a data iterator that is not grain's."""

  def __init__(self, iterator):
    self._iterator = iterator

  def get_state(self):
    return json.dumps(self._iterator.get_state()).encode()

  def set_state(self, state):
    self._iterator.set_state(json.loads(state.decode()))

  def start_prefetch(self):
    pass


def _grain_like(iterator):
  import grain

  return iterator if isinstance(iterator, grain.DatasetIterator) else _JsonState(iterator)


@contextlib.contextmanager
def _named(path, advice):
  """Makes of what Orbax raises for a file that is cut or gone, a bare Exception, a ValueError that names `path`; what
  the device says, as that its memory is full, is no word on files.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError:
    raise
  except Exception as error:
    reason = str(error).partition("\n")[0].partition(". See")[0]
    raise ValueError(f"{path}: cannot be read, or is truncated ({reason}); {advice}") from error


def final_exists(directory):
  """Returns whether the stage in `directory` is complete."""
  return (Path(directory) / "final").is_dir()


def save_final(directory, params, names):
  """Saves a stage's final params with their structure and logical axis `names` ({path: names})."""
  import orbax.checkpoint as ocp

  directory = Path(directory).absolute()
  write_json(directory / "final.json", describe(params, names))
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(directory / "final", nested(params))


def final_shapes(directory):
  """Returns (params as ShapeDtypeStructs, names) of the complete stage in `directory`.

  Raises:
    ValueError: final.json is damaged.
  """
  path = Path(directory) / "final.json"
  try:
    return rebuild(json.loads(path.read_text()))
  except (ValueError, KeyError) as error:
    raise ValueError(f"{path}: not the description of a stage, or truncated ({error})") from error


def load_final(directory, mesh=None, rules=None, *, replicate_uneven=False):
  """Returns (params, names) of the complete stage in `directory`; nothing else is needed to read them.

  Args:
    directory: WORKDIR/STAGE.
    mesh: where to lay the params out by `rules`; default: on the first local device.

  Raises:
    ValueError: the stage is not complete, or its files are damaged.
  """
  import orbax.checkpoint as ocp

  directory = Path(directory).absolute()
  if not final_exists(directory):
    raise ValueError(f"{directory} holds no final parameters: the stage was not trained to its end")
  params, names = final_shapes(directory)
  if mesh is None:
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: one, params)
  else:
    shardings = tree_shardings(params, names, mesh, rules, replicate_uneven=replicate_uneven)
  target = _targets(params, shardings)
  with ocp.StandardCheckpointer() as checkpointer:
    with _named(directory / "final", "allowed: the parameters that the stage wrote"):
      values = checkpointer.restore(directory / "final", nested(target))
  return restructure(target, values), names


def place(params, names, mesh, rules=None, *, replicate_uneven=False):
  """Returns `params` (any arrays) laid out on `mesh` by their names; leaves that lie there already are not moved."""
  shardings = tree_shardings(params, names, mesh, rules, replicate_uneven=replicate_uneven)

  def put(leaf, where: NamedSharding):
    there = isinstance(leaf, jax.Array) and leaf.sharding == where
    return leaf if there else jax.device_put(leaf, where)

  return jax.tree.map(put, params, shardings)
