"""The report over seeds, from what `comparison.evaluate_seed` wrote: no model is needed."""

import os

from ega_jax.data.arrays import load_arrays
from ega_jax.evaluation import report
from ega_jax.evaluation.kept_rows import read_figures
from ega_jax.training.checkpoint import first_difference, flat

# Which requests a figure is taken from: all of test, those whose payments were computed, those at equilibrium, and the
# audited ones under the Myerson integral.
SAMPLES = {
  "test": ("true/welfare", "true/clicks", "true/ctr_poi", "true/ctr_poi_ads", "true/ctr_poi_organic", "true/ctr_img",
           "true/rpm_surplus", "model/welfare", "model/ctr_poi", "model/ctr_poi_ads", "model/ctr_poi_organic",
           "model/ctr_img", "ad_share"),
  "priced": ("true/rpm", "model/rpm", "ir_violations"),
  "equilibrium": ("true/rpm", "model/rpm", "ad_share"),
  "equilibrium_equal": ("true/rpm", "model/rpm", "ad_share"),
  "audited": ("true/rpm", "model/rpm"),
}  # fmt: skip

RENAMED = {
  ("equilibrium", "true/rpm"): "true/rpm_equilibrium", ("equilibrium", "ad_share"): "ad_share_equilibrium",
  ("equilibrium", "model/rpm"): "model/rpm_equilibrium",
  ("equilibrium_equal", "true/rpm"): "true/rpm_equilibrium_equal",
  ("equilibrium_equal", "ad_share"): "ad_share_equilibrium_equal",
  ("equilibrium_equal", "model/rpm"): "model/rpm_equilibrium_equal",
  ("audited", "true/rpm"): "true/rpm_myerson", ("audited", "model/rpm"): "model/rpm_myerson",
}  # fmt: skip
OF_SYSTEM = (
  "shading", "residual_gain", "gain_by_value", "shading_equal", "residual_gain_equal", "gain_by_value_equal", "knob",
  "seconds", "parameters", "milliseconds", "flops",
)  # fmt: skip


def read_seed(directory):
  """Returns (figures, {system: {sample: totals}}) of one seed's folder."""
  figures = read_figures(directory)
  totals = {}
  for name in figures["systems"]:
    split = {}
    for key, total in load_arrays(os.path.join(directory, f"{name}.npz")).items():
      sample, _, figure = key.partition("/")
      split.setdefault(sample, {})[figure] = total
    totals[name] = split
  return figures, totals


def results(directories, reference="EGA", **header):
  """Returns the results dict of `report.write` from the folders of all seeds, the commit being that of the figures.

  Raises: ValueError without any, if they are not of one experiment under different seeds, or without the reference.
  """
  if not directories:
    raise ValueError("no evaluated seeds; allowed: one folder or more that launch.evaluate wrote")
  seeds = [read_seed(directory) for directory in directories]
  check(directories, [figures for figures, _ in seeds])
  names = [name for name in seeds[0][1] if all(name in totals for _, totals in seeds)]
  merged = {}
  for sample, figures in SAMPLES.items():
    have = [name for name in names if all(sample in totals[name] for _, totals in seeds)]
    if reference not in have:
      continue
    runs = {name: [totals[name][sample] for _, totals in seeds] for name in have}
    found = report.comparison(runs, reference, differences=figures)
    for name, one in found["systems"].items():
      kept = {key: value for key, value in one["figures"].items() if key in figures}
      renamed = lambda key, sample=sample: RENAMED.get((sample, key), key)
      into = merged.setdefault(name, {"figures": {}, "differences": {}, "note": ""})
      into["figures"] |= {renamed(key): value for key, value in kept.items()}
      into["differences"] |= {renamed(key): value for key, value in one["differences"].items()}
  if not merged:
    raise ValueError(f"{reference} is what systems are compared with, and was not evaluated; has: {', '.join(names)}")
  for name, one in merged.items():
    extra = [figures["systems"][name] for figures, _ in seeds]
    one["note"] = extra[0].get("note", "")
    for key in extra[0]:
      if key.startswith("audit/") or key in OF_SYSTEM:
        one["figures"][key] = [each.get(key) for each in extra]
  first = seeds[0][0]
  sections = {
    "curves": first["systems"].get(reference, {}).get("curves", []),
    "frontier": {name: one["frontier"] for name, one in first["systems"].items() if one.get("frontier")},
    "scatter": {name: one["scatter"] for name, one in first["systems"].items() if one.get("scatter")},
    "target_ad_share": first["target_ad_share"],
    "reward": [figures.get("reward") for figures, _ in seeds],
    "next_poi": [figures.get("next_poi") for figures, _ in seeds],
  }
  if first.get("reward"):
    sections["calibration"] = {"reward model": first["reward"]["calibration"]}
  made_by = {"seeds": [figures["config"]["seed"] for figures, _ in seeds], "commit": first["commit"]}
  return {"reference": reference, "num_seeds": len(seeds), "systems": merged, **header, **made_by, **sections}


def check(directories, figures):
  """Raises ValueError unless what `figures` say they were made by (config, data, commit) differs in the seed alone."""
  made_by = [flat({key: one[key] for key in ("config", "data", "commit")}) for one in figures]
  layout = {key for one in made_by for key in one if key.startswith("config.mesh.")}  # of arrays over devices
  for directory, one in zip(directories, made_by, strict=True):
    if found := first_difference(made_by[0], one, ignore=("config.seed", *layout)):
      key, old, new = found
      allowed = "runs that differ in their seed alone"
      raise ValueError(f"{directory}: {key} is {new!r}, that of {directories[0]} is {old!r}; allowed: {allowed}")
  if len({one["config.seed"] for one in made_by}) < len(made_by):
    raise ValueError(f"{', '.join(directories)}: two have the same seed; allowed: one folder per seed")
