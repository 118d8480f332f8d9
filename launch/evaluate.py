"""Evaluates trained runs: every system at equal ad load, its payments and incentives; table on the screen, report in files.

python -m launch.evaluate --workdir=DIR[,DIR..] --output=FILE.json [--systems=EGA,MCA] [--report_only]
One workdir per seed. Writes DIR/evaluation/ for each, FILE.json with all figures, and report.md with its plots beside
it. Exit codes: 0; 1 if the run failed; 2 for bad input.
"""

import json
from pathlib import Path

from absl import flags

from ega_jax.evaluation import over_seeds, report
from ega_jax.evaluation.comparison import evaluate_seed
from ega_jax.parallel.mesh import make_mesh
from ega_jax.training.checkpoint import final_exists, load_final
from launch import binary, experiment


def define_flags():
  """Defines the flags; not on import, so that another binary's module can be imported beside this one."""
  flags.DEFINE_list("workdir", None, "Folders that launch.train filled, one per seed.", required=True)
  flags.DEFINE_string("output", None, "JSON with all figures; the report is written beside it.", required=True)
  flags.DEFINE_list("systems", [], "Names of systems to evaluate; default: all.")
  flags.DEFINE_bool("report_only", False, "Write the report from what was evaluated before.")


def load_run(workdir):
  """Returns (config, {stage: final params}) of a workdir. Raises: ValueError if it is not a complete run."""
  workdir = Path(workdir)
  if not (workdir / "experiment.json").is_file():
    raise ValueError(f"--workdir={workdir}: no experiment.json; allowed: a folder that launch.train filled")
  path = json.loads((workdir / "experiment.json").read_text())["experiment"]
  module, config = experiment.load(path)
  with config.unlocked():
    update(config, json.loads((workdir / "config.json").read_text()))
  stages = module.stages(config, str(workdir))
  missing = [stage.name for stage in stages if not final_exists(workdir / stage.name)]
  if missing:
    raise ValueError(f"--workdir={workdir}: stages {', '.join(missing)} are not complete; run launch.train to its end")
  mesh = make_mesh({"data": -1})
  return config, {stage.name: load_final(workdir / stage.name, mesh)[0] for stage in stages}


def update(config, stored):
  """Sets every key of `config` to the stored value, whose types JSON may have widened."""
  for key, value in stored.items():
    if isinstance(value, dict):
      update(config[key], value)
    else:
      config[key] = type(config[key])(value) if config[key] is not None and value is not None else value


def main(overrides):
  """Returns the exit code."""
  if overrides:
    raise ValueError(f"{overrides[0]!r} is unknown here: the config is the run's own")
  values = flags.FLAGS
  folders = [str(Path(workdir) / "evaluation") for workdir in values.workdir]
  for workdir, folder in zip(values.workdir, folders, strict=True):
    if not values.report_only:
      config, finals = load_run(workdir)
      evaluate_seed(config, finals, folder, only=values.systems)
  results = over_seeds.results(folders, title="EGA and its baselines", **binary.provenance())
  binary.write_report(values.output, report.plain(results))
  path = report.write(results, str(Path(values.output).parent))
  print(Path(path).read_text())
  return 0


if __name__ == "__main__":
  define_flags()
  binary.run(main)
