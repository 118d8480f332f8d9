"""The report of a comparison: a plain dict of results -> JSON, Markdown and PNG, regenerable from its JSON alone.

`comparison` makes the dict from totals per request or user (seeds x systems); the optional sections beside it are what
the audits return: "frontier", "calibration", "curves", "scatter" (see plots.py for their forms).
"""

import json
import math
import os

import numpy as np

from ega_jax.evaluation import bootstrap, market, sections
from ega_jax.evaluation.tables import cell, spread, table

# figure -> (heading, format). What is absent from the results is left out.
COLUMNS = {
  "ad_share": ("ad share", "{:.3f}"),
  "true/welfare": ("welfare", "{:.4f}"),
  "true/clicks": ("clicks / request", "{:.4f}"),
  "true/rpm_equilibrium": ("RPM (c) own rule, equilibrium", "{:.2f}"),
  "shading": ("g", "{:.3f}"),
  "ad_share_equilibrium": ("ad share there", "{:.3f}"),
  "true/rpm_equilibrium_equal": ("RPM (c) at equal ad load", "{:.2f}"),
  "shading_equal": ("its g", "{:.3f}"),
  "ad_share_equilibrium_equal": ("its ad share", "{:.3f}"),
  "true/rpm_myerson": ("RPM (b) Myerson", "{:.2f}"),
  "true/rpm_surplus": ("virtual surplus / 1000 slots", "{:.2f}"),
  "true/rpm": ("RPM truthful", "{:.2f}"),
  "true/ctr_poi": ("CTR-poi", "{:.4f}"),
  "true/ctr_poi_ads": ("CTR-poi ads", "{:.4f}"),
  "true/ctr_poi_organic": ("CTR-poi organic", "{:.4f}"),
  "true/ctr_img": ("CTR-img", "{:.4f}"),
}
BY_MODEL = {
  "model/welfare": ("welfare", "{:.4f}"),
  "model/rpm_equilibrium": ("RPM (c) own rule, equilibrium", "{:.2f}"),
  "model/rpm_equilibrium_equal": ("RPM (c) at equal ad load", "{:.2f}"),
  "model/rpm_myerson": ("RPM (b) Myerson", "{:.2f}"),
  "model/rpm": ("RPM truthful", "{:.2f}"),
  "model/ctr_poi": ("CTR-poi", "{:.4f}"),
  "model/ctr_poi_ads": ("CTR-poi ads", "{:.4f}"),
  "model/ctr_poi_organic": ("CTR-poi organic", "{:.4f}"),
  "model/ctr_img": ("CTR-img", "{:.4f}"),
}
INCENTIVES = {
  "audit/model/regret": ("regret, model", "{:.5f}"),
  "audit/model/regret/standard_error": ("its standard error", "{:.5f}"),
  "audit/true/regret": ("regret, true", "{:.5f}"),
  "audit/true/regret/standard_error": ("its standard error", "{:.5f}"),
  "audit/model/regret_per_payment": ("regret / payment, model", "{:.3%}"),
  "audit/true/regret_per_payment": ("regret / payment, true", "{:.3%}"),
  "audit/least_regret": ("least regret of any payment", "{:.5f}"),
  "audit/least_regret_per_payment": ("least regret / payment", "{:.3%}"),
  "audit/falling_share": ("falling curves", "{:.1%}"),
  "audit/fall_depth": ("depth of falls", "{:.1%}"),
  "audit/model/psi": ("Psi", "{:.3f}"),
  "audit/model/psi_ratio": ("sum rgt / sum u", "{:.3%}"),
  "audit/model/i_sic": ("i-SIC", "{:.3f}"),
  "audit/true/psi": ("Psi, true", "{:.3f}"),
  "audit/true/psi_ratio": ("sum rgt / sum u, true", "{:.3%}"),
  "audit/true/i_sic": ("i-SIC, true", "{:.3f}"),
  "ir_violations": ("IR violations", "{:.2%}"),
  "residual_gain": ("residual gain at g", "{:.2%}"),
  "residual_gain_equal": ("residual gain at equal ad load", "{:.2%}"),
  "gain_by_value": ("gain of shading by value", "{:.2%}"),
  "gain_by_value_equal": ("gain of shading by value at equal ad load", "{:.2%}"),
}
DIFFERENCES = (
  "true/welfare", "true/rpm_equilibrium", "true/rpm_equilibrium_equal", "true/rpm_myerson", "true/rpm_surplus",
  "true/ctr_poi", "true/ctr_img", "true/rpm", "model/rpm",
)  # fmt: skip
# EGA-V2 (arXiv 2505.17549v3), Tables 1 and 2, the rows that there are here: RPM, CTR-poi, CTR-img. Directions are
# compared, never levels.
PAPER = {
  "MCA": (192.45, 0.0558, 0.0529),
  "GR": (206.73, 0.0582, 0.0546),
  "EGA": (230.41, 0.0612, 0.0583),
  "EGA-gsp": (226.17, 0.0608, 0.0580),
}
PAPER_FIGURES = ("model/rpm", "model/ctr_poi", "model/ctr_img")


def comparison(runs, reference, *, extra=None, notes=None, differences=None, num_resamples=1000, **header):
  """Returns the results dict of systems evaluated under several seeds.

  Args:
    runs: {system: [totals of each seed]}, totals from `systems.evaluate_system`, the same requests for every system.
    reference: the system that differences are taken against.
    extra: {system: [{figure: float} of each seed]}: audit figures ("audit/..."), "shading", parameters.
    notes: {system: text}. differences: figures to compare; None: all that both have.
    header: title, command, commit, seeds, minutes, machine, ...

  Raises: ValueError if the reference is missing or the numbers of seeds differ.
  """
  if reference not in runs:
    raise ValueError(f"reference={reference!r} is not among the systems {sorted(runs)}")
  seeds = {name: len(totals) for name, totals in runs.items()}
  if len(set(seeds.values())) != 1:
    raise ValueError(f"every system needs the same number of seeds; there are {seeds}")
  systems = {}
  for name, per_seed in runs.items():
    figures = [market.summarise(totals) for totals in per_seed]
    for number, more in enumerate((extra or {}).get(name, [])):
      figures[number] = figures[number] | dict(more)
    names = list(dict.fromkeys(key for one in figures for key in one))
    systems[name] = {
      "figures": {key: [_number(one.get(key)) for one in figures] for key in names},
      "differences": {} if name == reference else _differences(per_seed, runs[reference], differences, num_resamples),
      "note": (notes or {}).get(name, ""),
    }
  return dict(header) | {"reference": reference, "num_seeds": len(runs[reference]), "systems": systems}


def _differences(first, second, figures, num_resamples):
  """Returns {figure: {mean, low, high, per_seed, better, worse}} of the paired differences first - second."""
  both = [name for name in market.available(first[0]) if name in market.available(second[0])]
  found = {}
  for figure in both if figures is None else figures:
    pairs = [(market.parts(a, figure), market.parts(b, figure), a["user"]) for a, b in zip(first, second, strict=True)]
    result = bootstrap.compare_over_seeds(pairs, num_resamples=num_resamples)
    found[figure] = {
      "mean": _number(result.mean),
      "low": _number(result.low),
      "high": _number(result.high),
      "per_seed": [[_number(part) for part in (one.value, one.low, one.high)] for one in result.per_seed],
      "better": result.better,
      "worse": result.worse,
    }
  return found


def _number(value):
  """Returns a float that JSON can hold, None for what is not a finite number."""
  if value is None or isinstance(value, str):
    return value
  return float(value) if math.isfinite(value) else None


def _figure_table(results, columns, with_notes):
  """Returns the Markdown table systems x columns, of the columns that some system has; "" if none."""
  systems = results["systems"]
  kept = [name for name in columns if any(name in one["figures"] for one in systems.values())]
  if not kept:
    return ""
  rows = []
  for name, one in systems.items():
    cells = [cell(one["figures"].get(column, []), columns[column][1]) for column in kept]
    note = " ".join(filter(None, [one["note"], paper_note(results, name)]))
    rows.append([name, *cells] + ([note] if with_notes else []))
  return table(["system", *(columns[column][0] for column in kept)] + (["note"] if with_notes else []), rows)


def paper_note(results, name, against="EGA"):
  """Returns how the paper and this run order `name` and `against`, per figure; "" where the paper has no such row."""
  systems = results["systems"]
  if name == against or name not in PAPER or against not in PAPER or against not in systems:
    return ""
  words = []
  for position, figure in enumerate(PAPER_FIGURES):
    ours = [spread(systems[one]["figures"].get(figure, []))[0] for one in (name, against)]
    if None in ours or ours[1] == 0:
      continue
    paper, here = PAPER[name][position] / PAPER[against][position] - 1, ours[0] / ours[1] - 1
    verdict = "no difference" if abs(here) < 5e-4 else "same direction" if paper * here > 0 else "other direction"
    words.append(f"{figure.split('/')[1]} paper {paper:+.1%}, here {here:+.1%} ({verdict})")
  return f"vs {against}: " + "; ".join(words) if words else ""


def _difference_table(results, figures=DIFFERENCES):
  rows = []
  for name, one in results["systems"].items():
    for figure in figures:
      if figure in one["differences"]:
        found = one["differences"][figure]
        verdict = "better" if found["better"] else "worse" if found["worse"] else "not told apart"
        number = lambda value: "-" if value is None else f"{value:+.4g}"
        interval = f"[{number(found['low'])}, {number(found['high'])}]"
        rows.append([name, figure, number(found["mean"]), interval, verdict])
  return table([f"system - {results['reference']}", "figure", "difference", "95% interval", ""], rows) if rows else ""


def markdown(results, images=()):
  """Returns the report as Markdown; images: (caption, file name) pairs."""
  header = [f"# {results.get('title', 'Comparison')}", ""]
  for key in ("command", "commit", "seeds", "minutes", "machine", "requests"):
    if results.get(key) is not None:
      value = f"`{results[key]}`" if key in ("command", "commit") else results[key]
      header.append(f"- {key}: {value}")
  parts = ["\n".join(header), "## Comparison", _figure_table(results, COLUMNS, True), READING]
  believed = _figure_table(results, BY_MODEL, False)
  if believed:
    parts += ["## By the reward model", believed]
  incentives = _figure_table(results, INCENTIVES, False)
  if incentives:
    parts += ["## Incentives", incentives]
  differences = _difference_table(results)
  if differences:
    parts += [f"## Paired differences from {results['reference']}", differences, BETTER]
  parts += sections.of_results(results)
  parts += [f"![{caption}]({name})" for caption, name in images]
  return "\n\n".join(section for section in parts if section) + "\n"


READING = (
  "Mean ± standard deviation over seeds. Clicks are the world's probabilities; those of the reward model, the paper's "
  "protocol, have a table of their own. Welfare and clicks do not depend on payments. RPM under truthful bids flatters "
  "manipulable rules (first price most of all): compare (b) and (c), each system's own rule at its shading equilibrium "
  "g. \"At equal ad load\" the slot price is set anew for shaded bids; where a column does not say so it is that of "
  "truthful bids, and a rule under which ads shade shows fewer of them. "
  "The virtual surplus, on every test request, is not (b): it is the mean of the integral before clipping, and lower "
  "where curves fall. Levels of the paper's tables are not comparable; the note compares directions."
)
BETTER = (
  "Better or worse: the same sign in all seeds, and the user-clustered bootstrap 95% interval of each seed's paired "
  "difference excludes 0. The interval shown is that of the mean over seeds."
)


def write(results, directory, *, plot=True):
  """Writes report.json, report.md and the plots into `directory` and returns the path of report.md."""
  os.makedirs(directory, exist_ok=True)
  with open(os.path.join(directory, "report.json"), "w", encoding="utf-8") as file:
    json.dump(plain(results), file, indent=2, allow_nan=False)
  images = []
  if plot:
    from ega_jax.evaluation import plots

    images = plots.draw(plain(results), directory)
  path = os.path.join(directory, "report.md")
  with open(path, "w", encoding="utf-8") as file:
    file.write(markdown(plain(results), images))
  return path


def read(path):
  """Returns the results dict of a report.json. Raises: ValueError naming the file if it is not one."""
  with open(path, encoding="utf-8") as file:
    try:
      results = json.load(file)
    except json.JSONDecodeError as error:
      raise ValueError(f"{path} is not a report: {error}") from error
  if not isinstance(results, dict) or "systems" not in results:
    raise ValueError(f"{path} is not a report: it has no 'systems'")
  return results


def plain(value):
  """Returns `value` with arrays and numpy numbers as lists and numbers, non-finite ones as None."""
  if isinstance(value, dict):
    return {str(key): plain(one) for key, one in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(one) for one in value]
  if isinstance(value, np.ndarray):
    return plain(value.tolist())
  if isinstance(value, np.generic):
    return plain(value.item())
  return _number(value) if isinstance(value, float) else value
