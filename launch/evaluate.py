"""Evaluates trained runs: every system at equal ad load, its payments and incentives, as a table and a report.

python -m launch.evaluate --workdir=DIR[,DIR..] --output=FILE.json [--systems=EGA,MCA] [--report_only]
  [--config.evaluation.requests=100 ..]
One workdir per seed. Writes DIR/evaluation/ for each, FILE.json with all figures, and report.md with its plots beside
it. The same command goes on with what a killed one had not evaluated yet, if commit, config and parameters are the
same, and two at once share the systems out; systems that are named are evaluated anew. The config is the run's own but
for keys of `evaluation` and `systems`.
Exit codes: 0; 1 if the run failed; 2 for bad input.
"""

from pathlib import Path

from absl import flags

from ega_jax.evaluation import over_seeds, report
from ega_jax.evaluation.comparison import evaluate_seed, made_by
from launch import binary, experiment
from launch.finished import load_run


def define_flags():
  """Defines the flags; not on import, so that another binary's module can be imported beside this one."""
  flags.DEFINE_list("workdir", None, "Folders that launch.train filled, one per seed.", required=True)
  flags.DEFINE_string("output", None, "JSON with all figures; the report is written beside it.", required=True)
  flags.DEFINE_list("systems", [], "Names of systems to evaluate; default: all.")
  flags.DEFINE_bool("report_only", False, "Write the report from what was evaluated before.")


def main(overrides):
  """Returns the exit code."""
  for argument in overrides:
    if not argument.startswith(("--config.evaluation.", "--config.systems=")):
      raise ValueError(f"{argument}: the config is the run's own; allowed: --config.evaluation.KEY, --config.systems")
  values = flags.FLAGS
  binary.check_output(values.output)
  folders = [str(Path(workdir) / "evaluation") for workdir in values.workdir]
  missing = [] if values.report_only else _evaluate(folders, overrides)
  if missing:
    print(f"no report: another process evaluates {', '.join(missing)}, and writes it")
    return 0
  results = over_seeds.results(folders, title="EGA and its baselines", **binary.provenance())
  binary.write_report(values.output, report.plain(results))
  path = report.write(results, str(Path(values.output).parent))
  print(Path(path).read_text())
  return 0


def _evaluate(folders, overrides):
  """Evaluates the runs of --workdir into `folders`; returns what another process is at, as text."""
  values, commit = flags.FLAGS, binary.provenance()["commit"]
  runs = [load_run(workdir) for workdir in values.workdir]  # all are checked before the first takes its hours
  for config, _ in runs:
    with config.unlocked():
      for argument in overrides:
        experiment.override(config, argument)
  over_seeds.check(folders, [made_by(config, finals, commit) for config, finals in runs])
  missing = []
  for workdir, folder, (config, finals) in zip(values.workdir, folders, runs, strict=True):
    found = evaluate_seed(config, finals, folder, only=values.systems, commit=commit)
    missing += [f"{workdir}: {name}" for name in values.systems or config.systems if name not in found["systems"]]
  return missing


if __name__ == "__main__":
  define_flags()
  binary.run(main)
