"""Tiny prepared data and one trained run of the whole recipe over them, made once for all processes of the tests."""

import contextlib
import fcntl
import functools
import os
import tempfile
from pathlib import Path

import numpy as np

EXPERIMENT = Path(__file__).parent / "tiny_experiment.py"


@functools.cache
def folder() -> Path:
  """Returns the folder of conftest.py, which is removed after the tests; without it one that stays."""
  return Path(os.environ.get("EGA_TINY_RUN") or tempfile.mkdtemp(prefix="ega_tiny_"))


@contextlib.contextmanager
def _alone(name):
  """Waits until no other process makes what is called `name`."""
  with open(folder() / f"{name}.lock", "w", encoding="utf-8") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


@functools.cache
def data() -> str:
  """Returns the folder of prepared data: the embedded world at size tiny, with 9 requests exported."""
  from absl import flags
  from absl.testing import flagsaver

  from launch import prepare_data

  flags.FLAGS.mark_as_parsed()
  output, made = str(folder() / "data"), folder() / "data_made"
  with _alone("data"), flagsaver.flagsaver(source="world", size="tiny", output=output, export_requests=9):
    if not made.exists():
      prepare_data.main([])
      made.touch()
  return output


@functools.cache
def config():
  """Returns the run's config."""
  from launch import experiment

  policy = ["--config.policy.exchange_rate=0.9", "--config.policy.virtual_share=0.1"]
  return experiment.load(EXPERIMENT, [f"--config.data={data()}", *policy])[1]


@functools.cache
def trained():
  """Returns (workdir, {stage: final params}) of a complete run, as launch.train leaves it."""
  from ega_jax.parallel.mesh import make_mesh
  from ega_jax.training import loop
  from ega_jax.training.checkpoint import write_json
  from launch import experiment

  workdir = folder() / "run"
  module = experiment.load(EXPERIMENT)[0]
  options = loop.Options(config=experiment.as_dict(config()), log_every=5)
  with _alone("run"):  # the first process trains, others read what it left
    finals = loop.run(module.stages(config(), str(workdir)), workdir, make_mesh({"data": 1}), options=options)
    write_json(workdir / "experiment.json", {"experiment": str(EXPERIMENT)})
  return workdir, finals


@functools.cache
def models():
  """Returns the modules of the run."""
  from ega_jax.stages import recipe

  return recipe.build_models(config(), recipe.data_sizes(data()))


@functools.cache
def requests_of_test(count=8):
  """Returns request columns and "row" of the first requests of the test split."""
  from ega_jax.data.pipeline import read_split
  from ega_jax.stages.batches import REQUEST

  return read_split(data(), "test", (*REQUEST, "row"), np.arange(count))


def assert_legal(items, batch, length):
  """Asserts that lists items i[B, ..., length] hold candidates once, organic ones from the first on and in order."""
  assert items.shape[-1] == length
  for row, lists in enumerate(items.reshape(len(items), -1, length)):
    organic = np.flatnonzero((batch["candidates"][row] >= 0) & ~batch["is_ad"][row])
    for one in lists:
      assert (one >= 0).all() and len(set(one)) == length and (batch["candidates"][row][one] >= 0).all()
      free = one[~batch["is_ad"][row][one]]
      np.testing.assert_array_equal(free, organic[: len(free)])
