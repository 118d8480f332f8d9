"""The report: regenerable from its JSON, honest in its words, with its plots."""

import json
import struct

import numpy as np
import pytest

import oracles_evaluation as toy
from ega_jax.evaluation import audit, audit_views, market, payments, plots, ranking, report, systems, tables


@pytest.fixture(scope="module")
def results():
  runs, extra = {}, {}
  for seed in range(2):
    world = toy.ToyWorld(num_requests=24, seed=5)
    affine = toy.AffineMaximiser(world, seed=seed)
    rules = {
      "MCA": (toy.RankByBid(world), payments.FirstPrice()),
      "EGA": (affine, toy.PivotPayment(affine)),
      "popularity": (affine, payments.Free()),
    }
    for name, (system, rule) in rules.items():
      runs.setdefault(name, []).append(systems.evaluate_system(system, rule, world.columns, world))
    found = audit.audit_system(affine, rules["EGA"][1], world.columns, world, audit.AuditOptions(num_requests=6))
    figures = {f"audit/{name}": value for name, value in audit.audit_figures(found).items()}
    extra.setdefault("EGA", []).append(figures | {"shading": 1.0 if seed else "none"})
  made = report.comparison(
    runs, "MCA", extra=extra, notes={"popularity": "the floor"}, num_resamples=100, title="Toy", command="python -m x",
    commit="abc1234", seeds=[0, 1], minutes=2.5, target_ad_share=0.5,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  probability = rng.beta(1, 10, 5000)
  points = [{"knob": knob} | market.summarise(runs["EGA"][0]) for knob in (1.0, 2.0)]
  return made | {
    "frontier": {"EGA": points},
    "calibration": {"reward": ranking.calibration_curve(probability, rng.random(5000) < probability)},
    "curves": audit_views.example_curves(found),
    "scatter": {"VCG": audit_views.payment_scatter(found)},
  }


def test_numbers_are_those_of_the_runs(results):
  figures = results["systems"]["EGA"]["figures"]
  assert len(figures["true/rpm"]) == 2 and figures["shading"] == ["none", 1.0]
  difference = results["systems"]["EGA"]["differences"]["true/welfare"]
  means = [np.mean(results["systems"][name]["figures"]["true/welfare"]) for name in ("EGA", "MCA")]
  assert difference["mean"] == pytest.approx(means[0] - means[1])
  assert results["systems"]["MCA"]["differences"] == {}
  assert len(difference["per_seed"]) == 2 and difference["low"] <= difference["mean"] <= difference["high"]


def test_markdown_says_what_is_known(results):
  text = report.markdown(results)
  assert tables.spread([1.0, None, "none", 4.0]) == (2.5, pytest.approx(1.5 * 2**0.5))
  mean, spread = tables.spread(results["systems"]["EGA"]["figures"]["true/welfare"])
  assert f"{mean:.4f} ± {spread:.4f}" in text
  assert "1.000 ± 0.000 (1 x none)" in text
  for word in ("python -m x", "abc1234", "minutes: 2.5", "the floor", "rpm paper -16.5%", "regret, true", "interval"):
    assert word in text
  assert "IR violations" in text and "nan" not in text


def test_paper_notes_compare_directions():
  figures = lambda rpm, ctr: {"figures": {"model/rpm": [rpm], "model/ctr_poi": [ctr]}, "differences": {}, "note": ""}
  results = {"systems": {"EGA": figures(200.0, 0.05), "GR": figures(150.0, 0.06), "mine": figures(1.0, 1.0)}}
  note = report.paper_note(results, "GR")
  assert "rpm paper -10.3%, here -25.0% (same direction)" in note
  assert "ctr_poi paper -4.9%, here +20.0% (other direction)" in note
  assert report.paper_note(results, "EGA") == report.paper_note(results, "mine") == ""


def test_written_report_is_regenerated_from_its_json(results, tmp_path):
  path = report.write(results, tmp_path / "first")
  again = report.read(tmp_path / "first" / "report.json")
  report.write(again, tmp_path / "second", plot=False)
  first, second = (open(tmp_path / name / "report.md").read() for name in ("first", "second"))
  assert first.split("![")[0].strip() == second.strip() and path.endswith("report.md")
  for name in ("frontier", "calibration", "curves", "scatter", "regret"):
    data = (tmp_path / "first" / f"{name}.png").read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert data[:4] == b"\x89PNG" and min(width, height) > 200 and f"({name}.png)" in first


def test_systems_of_one_frontier_share_its_line():
  one, other = [{"ad_share": 0.1, "true/welfare": 1.0}], [{"ad_share": 0.1, "true/welfare": 2.0}]
  found = plots.same_lines({"EGA": one, "MCA": other, "EGA-gsp": [dict(one[0])]})
  assert found == {"EGA, EGA-gsp": one, "MCA": other} and list(found) == ["EGA, EGA-gsp", "MCA"]


def test_what_json_cannot_hold_becomes_null(tmp_path):
  results = {"systems": {"a": {"figures": {"x": [np.float32(1.5), float("nan")]}, "differences": {}, "note": ""}}}
  results |= {"reference": "a", "curves": [], "flag": np.bool_(True), "array": np.array([1.0, np.inf])}
  report.write(results, tmp_path)
  held = json.loads((tmp_path / "report.json").read_text())
  assert held["systems"]["a"]["figures"]["x"] == [1.5, None]
  assert held["array"] == [1.0, None] and held["flag"] is True


def test_bad_input_is_named(results, tmp_path):
  (tmp_path / "broken.json").write_text("{")
  with pytest.raises(ValueError, match="broken.json"):
    report.read(tmp_path / "broken.json")
  (tmp_path / "foreign.json").write_text("[]")
  with pytest.raises(ValueError, match="foreign.json"):
    report.read(tmp_path / "foreign.json")
  with pytest.raises(ValueError, match="reference='nobody'"):
    report.comparison({"a": []}, "nobody")
  with pytest.raises(ValueError, match="number of seeds"):
    report.comparison({"a": [], "b": [{}]}, "a")


def quality(auc, pcoc):
  parts = {f"{name}{part}": auc for name in ("auc", "log_loss") for part in ("", "/ads", "/organic")}
  parts |= {f"pcoc{part}": pcoc for part in ("", "/ads", "/organic", "/position_1", "/position_2")}
  parts |= {f"pcoc/ad_decile_{decile}": pcoc + decile / 10 for decile in (10, 2, 1)}
  return parts


def test_sections_beside_the_comparison(results):
  reward = {"model": quality(0.71, 1.02), "truth": quality(0.75, 1.0), "calibrated": True}
  poi = {"windows": 7, "floor": {"acc@1": 0.3}, "model": {"acc@1": 0.4}, "difference": {"acc@1": [0.1, -0.05, 0.25]}}
  systems = {name: dict(one) for name, one in results["systems"].items()}
  cost = {"parameters": [1234567, 1234567], "flops": [2e9, 2e9], "milliseconds": [40.0, 44.0], "seconds": [9.0, 9.0]}
  systems["EGA"]["figures"] |= cost
  rewards = [reward, reward | {"calibrated": False}]
  text = report.markdown(results | {"systems": systems, "reward": rewards, "next_poi": [{"with_time": poi}, None]})
  assert "| EGA | 1,234,567 ± 0 | 2.00e+09 ± 0.00e+00 | 42.0 ± 2.8 | - | 9 ± 0 |" in text and "| MCA | 1," not in text
  assert "| model | 1.12 ± 0.00 | 1.22 ± 0.00 | 2.02 ± 0.00 |" in text  # deciles in their order
  assert "1.020 .. 1.020" in text and "[.9, 1.1] in every position) in 1 of 2 seeds. AUC above the truth's" in text
  assert "| with the visit's time | acc@1 | 7 | 0.300 | 0.400 | +0.100 [-0.050, +0.250] |" in text
  assert "without the visit's time" not in text
  for heading in ("Cost", "Reward model", "Next POI"):
    assert heading in text and heading not in report.markdown(results | {"systems": {}})
