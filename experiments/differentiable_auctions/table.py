"""The table of what run.sh trained: python -m experiments.differentiable_auctions.table FOLDER"""

import json
import sys
from pathlib import Path

import numpy as np

from ega_jax.evaluation.tables import cell, table

COLUMNS = {
  "revenue": ("revenue", "{:.4f}"), "regret": ("regret per bidder", "{:.5f}"), "regret_p99": ("99%", "{:.4f}"),
  "regret_max": ("largest", "{:.4f}"), "regret_over_payment": ("regret / payment", "{:.2%}"),
  "welfare": ("welfare", "{:.3f}"), "ir_violations": ("IR violations", "{:.0f}"),
}  # fmt: skip


def results(folder):
  """Returns {setting: [final figures of each seed]} of the reports in FOLDER/SETTING/seedN.json."""
  found = {}
  for path in sorted(Path(folder).glob("*x*/seed*.json")):
    report = json.loads(path.read_text())
    (final,) = [line for line in report["stages"][-1]["metrics"] if line["phase"] == "final"]
    figures = {key: value for key, value in final.items() if key not in ("step", "phase")}
    found.setdefault(path.parent.name, []).append({"seed": report["seed"], "commit": report["commit"], **figures})
  if not found:
    raise ValueError(f"{folder}: no SETTING/seedN.json; allowed: a folder that run.sh filled")
  return found


def markdown(found):
  """Returns the table: mean and standard deviation over seeds, and what theory knows."""
  rows = []
  for setting, seeds in found.items():
    cells = [cell([one[key] for one in seeds], form) for key, (_, form) in COLUMNS.items()]
    known, error = seeds[0], np.mean([one["revenue_stderr"] for one in seeds])
    theory = [f"{known[key]:.4f}" if key in known else "unknown" for key in ("item_wise_myerson", "optimum")]
    sizes = f"{known['searched_profiles']:.0f} of {known['profiles']:.0f}"
    rows.append([setting, *cells, *theory, f"{error:.4f}", sizes])
  headings = [heading for heading, _ in COLUMNS.values()]
  last = ["items apart", "optimum", "standard error of revenue", "profiles searched"]
  return table(["bidders x items", *headings, *last], rows)


def main(arguments):
  """Writes both files; returns the exit code: 0, or 2 for bad input."""
  try:
    if len(arguments) != 1:
      raise ValueError(f"{len(arguments)} arguments; allowed: one folder")
    (folder,) = arguments
    found = results(folder)
  except ValueError as error:
    print(f"bad input: {error}", file=sys.stderr)
    return 2
  (Path(folder) / "results.json").write_text(json.dumps(found, indent=1) + "\n")
  (Path(folder) / "table.md").write_text(markdown(found) + "\n")
  print(markdown(found))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
