"""Chooses between trained runs, or systems of one run, on validation, without the marketplace's truth.

python -m launch.choose --workdir=DIR[,DIR..] --output=FILE.json [--systems=EGA,MCA+R] [--judge=DIR] [--requests=N]
Of a run only the stages that its systems need have to be complete: each needs `policy`, a cascade `ranker` as well, and
the run that judges `reward` and `judge` (`config.judge`).
Every system of every run is brought to the ad share of the logs. Its lists are scored by the judge, a second reward
model fitted on folds of the logs that no other model's weights were fitted to (stage `judge`; the reward model's
calibration, a handful of levels, reads their clicks too, and both read validation's), and the choice is cross-checked
by self-normalised inverse propensity scoring on the exploration share of the logs. The score is that of the market,
sum_ads value * pCTR + organic_weight * sum_organic pCTR, whatever objective a system's own lists are chosen by.
Exit codes: 0; 1 if the run failed; 2 for bad input.
"""

from absl import flags

from ega_jax.decoding.slate import Objective
from ega_jax.evaluation import comparison, load, reward_quality, selection
from ega_jax.evaluation.lineup import systems
from ega_jax.evaluation.tables import table
from ega_jax.stages.batches import evenly
from ega_jax.stages.market import balancing_requests, target_ad_share
from launch import binary
from launch.finished import load_run

HEADINGS = ("option", "ad share", "score", "less the best", "welfare", "clicks", "virtual surplus", "score by the logs")


def define_flags():
  """Defines the flags; not on import, so that another binary's module can be imported beside this one."""
  flags.DEFINE_list("workdir", None, "Folders that launch.train filled, one per option.", required=True)
  flags.DEFINE_string("output", "", "JSON with all figures.")
  flags.DEFINE_list("systems", ["EGA"], "Names of systems to compare, of every run.")
  flags.DEFINE_string("judge", "", "The run whose judge scores; default: the first of --workdir.")
  flags.DEFINE_integer("requests", 0, "Validation requests, evenly spread; 0: all.", lower_bound=0)


def main(overrides):
  """Returns the exit code."""
  if overrides:
    raise ValueError(f"{overrides[0]}: allowed: none, the config is the run's own")
  values = flags.FLAGS
  binary.check_output(values.output)
  options = {}
  by_judge = values.judge or values.workdir[0]
  runs = {workdir: load_run(workdir, partial=True) for workdir in dict.fromkeys((by_judge, *values.workdir))}
  config, finals = runs[by_judge]
  data, chunk = config.data, config.evaluation.chunk
  for workdir, (other, _) in runs.items():  # all of them, before the first takes its minutes
    if other.data != data:
      raise ValueError(f"--workdir={workdir} is of {other.data}; allowed: runs of {data}, as the judge is")
  judge = reward_quality.evaluator(config, finals["judge"])
  objective = Objective(float(finals["reward"]["market"]["organic_weight"]))
  columns = evenly(data, "validation", (*comparison.COLUMNS, *selection.LOGS), values.requests, chunk)
  target = target_ad_share(data)
  for workdir in values.workdir:
    config, finals = runs[workdir]
    few, _ = balancing_requests(config)
    equal = load.EqualLoad(few, target, chunk, config.list_length, columns)  # at one load where they are judged
    for entry in systems(config, finals, only=values.systems, priced=False):
      name = entry.name if len(values.workdir) == 1 else f"{workdir}:{entry.name}"
      system = equal.balanced(entry).system
      options[name] = selection.judged(system, columns, judge, objective, sigma=config.value_sigma, chunk=chunk)
      system.forget()  # memory
      print(f"{name}: score {options[name]['totals']['score'].mean():.4f}", flush=True)
  found = selection.choice(options)
  print(_table(found))
  binary.write_report(values.output, {"requests": len(columns["row"]), "target_ad_share": target} | found)
  return 0


def _table(found):
  """Returns the options and the verdict as text."""
  rows = []
  for name, one in found["options"].items():
    value, low, high = one["lead"]
    of_logs = one["snips"]
    numbers = (one["model/welfare"], one["model/clicks"])
    rows.append([
      name, f"{one['ad_share']:.3f}", f"{one['score']:.4f}", f"{value:+.4f} [{low:+.4f}, {high:+.4f}]",
      *(f"{number:.4f}" for number in numbers), f"{one['model/rpm_surplus']:.1f}",
      f"{of_logs['value']:.4f} ± {of_logs['standard_error']:.4f} a slot ({of_logs['matched']} matched)",
    ])  # fmt: skip
  objection = {True: "the logs do not object", False: "the logs object", None: "the logs say nothing of it"}
  return f"{table(HEADINGS, rows)}\n\nbest by the judge: {found['best']}; {objection[found['agrees']]}"


if __name__ == "__main__":
  define_flags()
  binary.run(main)
