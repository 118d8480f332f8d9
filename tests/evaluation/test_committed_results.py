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
  kinds = ("rpm_myerson", "ctr_poi_ads", "ctr_poi_organic")  # (b) and both kinds' clicks by both evaluators, too
  figures = found["systems"]["EGA"]["figures"]
  assert all(min(figures[f"{evaluator}/{kind}"]) > 0 for kind in kinds for evaluator in ("model", "true"))
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


def test_the_next_poi_accuracies_of_new_york_are_those_of_its_figures():
  found = [over_seeds.read_seed(str(path))[0]["next_poi"] for path in sorted(FOLDER.glob("results/seed*/evaluation"))]
  text = (FOLDER / "README.md").read_text()
  for row, information in (("without it", "without_time"), ("with it", "with_time")):
    cells = re.search(rf"^\| generator, {row} \|(.+)\|$", text, re.M).group(1).split("|")
    for cell, metric in zip(cells, ("acc@1", "acc@5", "acc@10"), strict=True):
      for shown, one in zip(cell.split("/"), found, strict=True):
        one = one[information]
        expected = [one["model"][metric], *one["difference"][metric][1:]]
        assert [float(number) for number in re.findall(r"-?\.\d+", shown)] == [round(value, 3) for value in expected]
