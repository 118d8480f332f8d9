"""Runs the toy in a process of its own and ends it with SIGKILL or SIGTERM at a given point; prints a hash per stage.

python run_toy.py WORKDIR [--kill=POINT] [--term=STEP] [--pause=SECONDS]
  [--coordinator=HOST:PORT --process=I --processes=N]
POINT: step:N before the Nth batch, saving:N while checkpoint N is written, finished before the first stage's final
parameters are saved, between right after that.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import toy_experiment  # noqa: E402

from ega_jax.parallel.mesh import make_mesh  # noqa: E402
from ega_jax.training import loop  # noqa: E402
from launch import experiment  # noqa: E402


def hashes(finals):
  """Returns {stage: sha256 of all its final params}."""
  out = {}
  for stage, params in finals.items():
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
      digest.update(np.ascontiguousarray(leaf).tobytes())
    out[stage] = digest.hexdigest()
  return out


def run(workdir, log_every=5, checkpoint_every=4):
  """Returns the toy's final params by stage."""
  config = toy_experiment.get_config()
  config_json = experiment.as_dict(config)
  options = loop.Options(log_every=log_every, checkpoint_every=checkpoint_every, config=config_json)
  return loop.run(toy_experiment.stages(config, workdir), workdir, make_mesh(), options=options)


def end(number):
  """Sends this process a signal."""
  os.kill(os.getpid(), number)


def counted(module, name, count, before=None, after=None):
  """Wraps module.name so that its `count`th call runs `before` or `after`."""
  inner, calls = getattr(module, name), [0]

  def wrapper(*args, **kwargs):
    calls[0] += 1
    if before and calls[0] == count:
      before()
    result = inner(*args, **kwargs)
    if after and calls[0] == count:
      after()
    return result

  setattr(module, name, wrapper)


def arm(point):
  """Makes the run end itself at `point`."""
  kind, _, number = point.partition(":")
  kill = lambda: end(signal.SIGKILL)
  if kind == "step":
    counted(loop, "global_batch", int(number), before=kill)
  elif kind == "saving":
    counted(loop.StepCheckpoints, "save", int(number), after=kill)
  elif kind == "finished":
    counted(loop, "save_final", 1, before=kill)
  elif kind == "between":
    counted(loop, "save_final", 1, after=kill)


def paused(seconds):
  """Makes every batch take that long: a notice of preemption needs time to reach the other process."""
  inner = loop.global_batch

  def wrapper(*args, **kwargs):
    time.sleep(seconds)
    return inner(*args, **kwargs)

  loop.global_batch = wrapper


def main():
  """Runs what the arguments say."""
  parser = argparse.ArgumentParser()
  parser.add_argument("workdir")
  parser.add_argument("--kill", default="")
  parser.add_argument("--term", type=int, default=0)
  parser.add_argument("--pause", type=float, default=0.0)
  parser.add_argument("--coordinator", default="")
  parser.add_argument("--process", type=int, default=0)
  parser.add_argument("--processes", type=int, default=1)
  args = parser.parse_args()
  if args.coordinator:
    jax.distributed.initialize(args.coordinator, args.processes, args.process)
  arm(args.kill)
  if args.pause:
    paused(args.pause)
  if args.term:
    counted(loop, "global_batch", args.term, before=lambda: end(signal.SIGTERM))
  try:
    finals = run(args.workdir)
  except loop.Preempted as error:
    print(json.dumps({"preempted": str(error)}), flush=True)
  else:
    print(json.dumps(hashes(finals)), flush=True)


if __name__ == "__main__":
  main()
