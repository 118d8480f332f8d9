"""Runs stages one after the other. Knows nothing of what they learn.

A stage: shapes, fingerprint, shardings, restore or initialise, steps, finish, final parameters; then the next one.
The same call after a kill at any point continues where the last checkpoint is, to the same bits.
"""

import collections
import contextlib
import dataclasses
import signal
import threading
import zlib
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from ega_jax.parallel.partition import global_batch, inherited_names, logical_names, tree_shardings, unbox
from ega_jax.parallel.rules import flax_rules
from ega_jax.training.checkpoint import StepCheckpoints, check_same, final_exists, load_final, place, save_final
from ega_jax.training.state import first_state, initial_state, state_shardings
from ega_jax.training.step import compile_step
from ega_jax.training.structure import shapes
from ega_jax.training.writers import MetricsWriter, Progress

STEPS_IN_FLIGHT = 16  # XLA:CPU's all-reduce over fake devices can deadlock beyond about 50 unfinished steps


@dataclasses.dataclass(frozen=True)
class Options:
  """How stages are run; nothing here changes the numbers but `seed`."""

  seed: int = 0
  log_every: int = 50
  checkpoint_every: int = 1000
  keep: int = 2  # step checkpoints of a stage
  config: dict | None = None  # locks the workdir
  only: tuple[str, ...] = ()  # stages to run; those that they need must be complete. Empty: all
  replicate_uneven: bool = False  # keep a dimension whole that its mesh axes do not divide, instead of refusing it


class NonFiniteLoss(FloatingPointError):
  """A loss or gradient was not finite."""


class Preempted(RuntimeError):
  """The run was asked to end, saved its state and stopped."""


def run(stages, workdir, mesh, rules=None, options=None):
  """Returns {stage name: final params} after running `stages` in order, in WORKDIR/STAGE each; with `options.only` of
  those and of what they need.

  Args:
    stages: list of Stage.
    workdir: folder; a run that was killed continues from what is there.
    mesh: jax.sharding.Mesh of parallel.mesh.make_mesh.
    rules: logical axis -> mesh axes, default parallel.rules.RULES.
    options: Options.

  Raises:
    ValueError: duplicate or unknown stage names; a workdir of another config, shape, seed or number of processes.
    NonFiniteLoss: names stage and step; the last good checkpoint stays.
    Preempted: after SIGTERM, with the state saved.
  """
  options = options or Options()
  workdir = Path(workdir).absolute()
  chosen = planned(stages, options.only, workdir)
  if options.config is not None:
    check_same(workdir / "config.json", options.config)
  previous, names = {}, {}
  with jax.set_mesh(mesh), nn.logical_axis_rules(flax_rules(rules)):
    for stage, needs in chosen:
      runner = _StageRun(stage, workdir / stage.name, mesh, rules, options)
      previous[stage.name], names = runner.run({name: previous[name] for name in needs}, names)
  return previous


def planned(stages, only, workdir):
  """Returns [(stage, names of the stages it needs)] in order: the stages `only` and what they need, directly or not;
  all if it is empty.

  Raises:
    ValueError: duplicate or unknown names, a need that is no earlier stage, or one that is neither complete nor named.
  """
  known = [stage.name for stage in stages]
  if not known or len(set(known)) != len(known):
    raise ValueError(f"stages {known}; allowed: one or more, with different names")
  for name in only:
    if name not in known:
      raise ValueError(f"stage {name!r} is unknown; allowed: {', '.join(known)}")
  wanted, found = set(only or known), []
  for at, stage in reversed(list(enumerate(stages))):
    if stage.name not in wanted:
      continue
    needs = tuple(known[:at]) if stage.needs is None else stage.needs
    if absent := sorted(set(needs) - set(known[:at])):
      raise ValueError(f"stage {stage.name!r} needs {absent[0]!r}; allowed: an earlier stage, {', '.join(known[:at])}")
    wanted.update(needs)
    found.insert(0, (stage, needs))
  for stage, _ in found if only else ():
    if stage.name not in only and not final_exists(Path(workdir) / stage.name):
      raise ValueError(f"stage {stage.name!r} is not complete in {workdir}; allowed: run it first")
  return found


class _StageRun:
  """One stage in one folder."""

  def __init__(self, stage, directory, mesh, rules, options):
    self.stage, self.directory, self.mesh, self.options = stage, directory, mesh, options
    self.layout = {"rules": rules, "replicate_uneven": options.replicate_uneven}

  def run(self, previous, names):
    """Returns the stage's final params and the logical axis names known so far."""
    rng = jax.random.fold_in(jax.random.key(self.options.seed), zlib.crc32(self.stage.name.encode()))
    abstract, names = abstract_state(self.stage, rng, previous, names)
    complete = final_exists(self.directory)
    # A complete stage is only read, and arrays can be read by any number of processes.
    ignore = ("num_processes",) if complete else ()
    known = self.directory / "fingerprint.json"
    if not known.exists() and (complete or any((self.directory / "steps").glob("[0-9]*"))):
      raise ValueError(f"{known} is missing and there are checkpoints of an unknown stage; allowed: another workdir")
    check_same(known, self._fingerprint(abstract), ignore)
    if not complete:
      self._train_and_finish(rng, abstract, names, previous)
    params, stored = load_final(self.directory, self.mesh, **self.layout)
    return params, names | stored

  def _fingerprint(self, abstract):
    stage = self.stage
    return {
      "stage": stage.name,
      "num_steps": stage.num_steps,
      "trainable": stage.trainable,
      "seed": self.options.seed,
      "num_processes": jax.process_count(),
      "params": shapes(abstract.params),
    }

  def _train_and_finish(self, rng, abstract, names, previous):
    stage = self.stage
    shardings = state_shardings(abstract, tree_shardings(abstract.params, names, self.mesh, **self.layout), self.mesh)
    checkpoints = StepCheckpoints(self.directory, self.options.keep)
    iterator = _iterator(stage, previous) if stage.num_steps else None
    start = checkpoints.latest() or 0
    if start:
      state = checkpoints.restore(start, abstract, shardings, iterator)
    else:
      state = jax.jit(lambda rng, previous: initial_state(stage, rng, previous), out_shardings=shardings)(rng, previous)
    writer = MetricsWriter(self.directory, start)
    try:
      state = self._steps(state, start, iterator, checkpoints, writer, shardings)
      params = state.params if stage.finish is None else stage.finish(state.params, previous)
      params = jax.tree.map(_as_array, params)
      names = inherited_names(names, params)
      params = place(params, names, self.mesh, **self.layout)
      if stage.evaluate is not None:
        writer.write(stage.num_steps, stage.evaluate(params), "final")
    finally:
      writer.close()
      checkpoints.close()
    save_final(self.directory, params, names)

  def _steps(self, state, start, iterator, checkpoints, writer, shardings):
    """Returns the state after the stage's last step."""
    stage, options = self.stage, self.options
    step_fn = compile_step(stage, self.mesh, shardings)
    progress = Progress(stage.name, stage.num_steps, start)
    if start < stage.num_steps:
      progress.say(f"continues at step {start}" if start else f"starts on {self.mesh.size} devices")
    in_flight = collections.deque()
    with _termination() as terminated:
      for step in range(start + 1, stage.num_steps + 1):
        batch = global_batch(_next(iterator, stage, step), self.mesh)
        # The first call compiles, which moves constants; after it every transfer is a mistake.
        guard = jax.transfer_guard("disallow") if step > start + 1 else contextlib.nullcontext()
        with jax.profiler.StepTraceAnnotation(stage.name, step_num=step), guard:
          state, metrics = step_fn(state, batch)
        in_flight.append(metrics["loss"])
        if len(in_flight) > STEPS_IN_FLIGHT:
          in_flight.popleft().block_until_ready()
        last = step == stage.num_steps
        if last or step % options.log_every == 0:
          self._check_finite(state, checkpoints)
          values = jax.device_get(metrics)
          writer.write(step, values, "train")
          progress.show(step, float(values["loss"]))
        if stage.eval_every and stage.evaluate is not None and step % stage.eval_every == 0 and not last:
          writer.write(step, stage.evaluate(state.params), "evaluate")
        stop = checkpoints.preempted(step) if jax.process_count() > 1 else terminated()
        if last or stop or step % options.checkpoint_every == 0:
          self._check_finite(state, checkpoints)
          checkpoints.save(step, state, iterator)
        if stop and not last:
          raise Preempted(f"stage {stage.name!r} was asked to end at step {step}; the same command continues")
    return state

  def _check_finite(self, state, checkpoints):
    bad = int(jax.device_get(state.first_bad_step))
    if bad >= 0:
      good = checkpoints.latest() or 0
      kept = f"last good checkpoint: step {good} in {self.directory}"
      raise NonFiniteLoss(f"stage {self.stage.name!r}: loss or gradient is not finite at step {bad}; {kept}")


def abstract_state(stage, rng, previous, names=None):
  """Returns (TrainState of ShapeDtypeStructs, {path: logical axis names}) of a stage; computes nothing.

  Args:
    rng: key or ShapeDtypeStruct of one.
    previous: {stage name: params or ShapeDtypeStructs}.
    names: axis names known from earlier stages; used where a leaf has no box of its own.
  """
  boxed = jax.eval_shape(stage.shapes or stage.init, rng, previous)
  # Not by tracing initial_state: an init may compute constants while it is traced, and once is enough.
  abstract = jax.eval_shape(lambda rng, params: first_state(stage, rng, params), rng, unbox(boxed))
  return abstract, inherited_names(names or {}, abstract.params) | logical_names(boxed)


def _as_array(leaf):
  return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _iterator(stage, previous):
  iterator = iter(stage.batches(previous))
  if not (hasattr(iterator, "get_state") and hasattr(iterator, "set_state")):
    kind = type(iterator).__name__
    raise ValueError(f"stage {stage.name!r}: batches gives a {kind}; allowed: an iterator with get_state and set_state")
  return iterator


def _next(iterator, stage, step):
  try:
    return next(iterator)
  except StopIteration:
    ended = f"batches ended before step {step} of {stage.num_steps}"
    raise ValueError(f"stage {stage.name!r}: {ended}; allowed: an endless dataset") from None


@contextlib.contextmanager
def _termination():
  """Gives a function that says whether SIGTERM came. Only in a main thread of a single process: otherwise never."""
  received = threading.Event()
  if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
    yield received.is_set
    return
  before = signal.signal(signal.SIGTERM, lambda *_: received.set())
  try:
    yield received.is_set
  finally:
    signal.signal(signal.SIGTERM, before)
