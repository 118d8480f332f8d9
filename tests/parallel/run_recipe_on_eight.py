"""Pre-trains the tiny recipe on one and on eight devices of one process and prints both. Started by its test."""

import json
import shutil
import sys
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny_run  # noqa: E402
from ega_jax.parallel.mesh import make_mesh  # noqa: E402
from ega_jax.training import loop  # noqa: E402
from launch import experiment  # noqa: E402


def main(workdir):
  """Prints {"losses": {mesh: of each step}, "sharded": {mesh: leaves of which no device holds all}}."""
  config = tiny_run.config()
  config.pretrain.steps = 6
  stages = experiment.load(tiny_run.EXPERIMENT)[0].stages(config, None)[:2]
  meshes = {"one": make_mesh({}, jax.devices()[:1]), "eight": make_mesh({"data": 2, "fsdp": 2, "tensor": 2})}
  report = {"losses": {}, "sharded": {}}
  for name, mesh in meshes.items():
    if name != "one":
      shutil.copytree(workdir / "one" / "tokenizer", workdir / name / "tokenizer")
    params = loop.run(stages, workdir / name, mesh, options=loop.Options(log_every=1))["pretrain"]
    lines = (workdir / name / "pretrain" / "metrics.jsonl").read_text().splitlines()
    report["losses"][name] = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    report["sharded"][name] = sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(params["generator"]))
  print(json.dumps(report), flush=True)


if __name__ == "__main__":
  main(Path(sys.argv[1]))
