"""The figures that experiments' READMEs show are those of the totals that are committed beside them."""

import re
from pathlib import Path

from ega_jax.evaluation import over_seeds

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "ega_checkins"
NAMES = {
  "welfare": "true/welfare", "CTR-poi": "true/ctr_poi", "RPM (c) at equal ad load": "true/rpm_equilibrium_equal",
  "RPM (b)": "true/rpm_myerson", "virtual surplus": "true/rpm_surplus",
}  # fmt: skip


def test_the_differences_of_new_york_are_those_of_its_totals():
  folders = sorted(str(path) for path in FOLDER.glob("results/seed*/evaluation"))
  found = over_seeds.results(folders)
  for name in ("true/rpm_equilibrium_equal", "model/rpm_equilibrium_equal"):  # (c) by both evaluators
    seeds = zip(*(found["systems"][system]["figures"][name] for system in ("EGA", "MCA+R")), strict=True)
    assert all(ega > cascade > 0 for ega, cascade in seeds)
  differences = found["systems"]["MCA+R"]["differences"]
  row = r"^\| ([^|]+) \| (\+[^|]+\]) \| (\+[^|]+\]) \| (\+[^|]+\]) \|$"
  shown = re.findall(row, (FOLDER / "README.md").read_text(), re.M)
  assert {name for name, *_ in shown} == NAMES.keys()
  for name, *texts in shown:
    one = differences[NAMES[name]]
    expected = [(one["mean"], one["low"], one["high"]), *one["per_seed"]]
    for text, (mean, low, high) in zip(texts, expected, strict=True):
      numbers = [float(number) for number in re.findall(r"[-+]?\d*\.\d+", text)]
      digits = len(text.partition(".")[2].partition(" ")[0])
      assert [round(-value, digits) for value in (mean, high, low)] == numbers, (name, text)
