"""Trains the toy on one and on eight devices of one process and prints what differs, as JSON. Started by its test."""

import json
import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import toy_experiment  # noqa: E402

from ega_jax.parallel.mesh import make_mesh  # noqa: E402
from ega_jax.training import loop, step  # noqa: E402


def difference(reference, params):
  """Returns the largest relative difference of two trees of params (numbers below 1e-2: absolute, in units of 1e-2)."""
  relative = lambda a, b: float(np.max(np.abs(a - b) / (1e-2 + np.abs(a))))
  return max(jax.tree.leaves(jax.tree.map(relative, jax.device_get(reference), jax.device_get(params))))


def main(workdir):
  """Prints the report."""
  config = toy_experiment.get_config()
  stage = toy_experiment.stages(config, None)[0]
  outputs = []
  compile_step = step.compile_step

  def spied(*args):
    inner = compile_step(*args)

    def run(state, batch):
      following, metrics = inner(state, batch)
      outputs.append((state, following, batch, inner))
      return following, metrics

    return run

  def run(name, mesh, **options):
    return loop.run([stage], workdir / name, mesh, options=loop.Options(**options))["regress"]

  one = make_mesh({}, jax.devices()[:1])
  eight = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
  reference = run("one", one)
  loop.compile_step = spied
  report = {"differences": {}}
  params = run("eight", eight)
  report["differences"]["eight"] = difference(reference, params)
  state, following, batch, inner = outputs[-1]
  spec = lambda leaf: list(leaf.sharding.spec)
  report["param"] = spec(following.params["regressor"]["hidden"])
  report["moment"] = spec(following.opt_state[0].mu["regressor"]["hidden"])
  report["final"] = spec(params["regressor"]["hidden"])
  report["batch_shard"] = batch["x"].addressable_shards[0].data.shape
  report["donated"] = all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
  report["compilations"] = inner._cache_size()
  # A checkpoint of one device goes on on eight.
  loop.global_batch, real, calls = None, loop.global_batch, [0]

  def interrupted(batch, mesh):
    calls[0] += 1
    if calls[0] == 12:
      raise KeyboardInterrupt
    return real(batch, mesh)

  loop.global_batch = interrupted
  try:
    run("moved", one, checkpoint_every=10)
  except KeyboardInterrupt:
    loop.global_batch = real
  moved = run("moved", eight, checkpoint_every=10)
  report["differences"]["moved"] = difference(reference, moved)
  print(json.dumps(report), flush=True)


if __name__ == "__main__":
  main(Path(sys.argv[1]))
