"""The auction binary: its figures, its profiles, its exit codes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ega_jax.auction import audit as audit_lib
from ega_jax.auction import market as market_lib
from ega_jax.auction import mechanisms
from launch import auction

SPEC = {
  "name": "two", "slots": 2, "quality": [0.5, 0.4, 0.2], "position": [1.0, 0.5],
  "similarity": [[0, 0.5, 0], [0.5, 0, 0.2], [0, 0.2, 0]],
  "externality": {"above": -0.6, "below": -0.3, "decay": 0.5},
  "values": {"distribution": "uniform", "low": 0.0, "high": 1.0},
}
FIGURES = {
  "revenue", "revenue_stderr", "welfare", "clicks", "ads_shown", "virtual_surplus", "mean_regret", "p99_regret",
  "max_regret", "regret_over_payment", "regret_over_utility", "psi", "non_monotone", "payment_identity_residual",
  "i_sic", "min_payment", "ir_violations",
}
SMALL = audit_lib.Sizes(regret_profiles=120, identity_profiles=15, chunk=500, block=25)


def test_report_of_samples():
  market = market_lib.from_dict(SPEC)
  report = auction.evaluate(market, auction.build(market, mechanisms.NAMES)[0], num_samples=3000, seed=1, sizes=SMALL)
  assert (report["market"], report["num_samples"], report["seed"]) == ("two", 3000, 1) and "profiles" not in report
  figures = report["mechanisms"]
  assert tuple(figures) == mechanisms.NAMES and all(set(one) >= FIGURES for one in figures.values())
  for name in ("myerson", "vcg", "vcg_range"):
    one = figures[name]
    assert one["max_regret"] <= 1e-6 and one["psi"] <= 1e-9 and one["non_monotone"] == 0
    assert one["payment_identity_residual"] < 1e-5 and abs(one["i_sic"] - 1) < 0.02
    assert abs(one["revenue_minus_virtual_surplus"]) <= 4 * one["revenue_minus_virtual_surplus_stderr"]
  assert figures["first_price"]["revenue"] == pytest.approx(figures["first_price"]["welfare"])
  assert abs(figures["first_price"]["i_sic"]) < 0.05 and figures["gsp"]["mean_regret"] > 1e-4
  assert figures["vcg"]["welfare"] >= figures["gsp"]["welfare"]
  assert all(one["ir_violations"] == 0 and one["min_payment"] >= 0 for one in figures.values())
  text = auction.table(report)
  assert all(name in text for name in (*mechanisms.NAMES, "regret_over_payment"))


def test_chunks_and_blocks_change_nothing(monkeypatch):
  market = market_lib.from_dict(SPEC)
  one = auction.evaluate(market, auction.build(market, ["vcg"])[0], num_samples=700, sizes=SMALL)["mechanisms"]["vcg"]
  sizes = audit_lib.Sizes(regret_profiles=120, identity_profiles=15, chunk=7000, block=1000)
  other = auction.evaluate(market, auction.build(market, ["vcg"])[0], num_samples=700, sizes=sizes)["mechanisms"]["vcg"]
  assert one == pytest.approx(other, rel=1e-9, abs=1e-12)
  monkeypatch.setattr(audit_lib, "CELLS", 5000)  # and how many misreports are run at once
  gsp = lambda: auction.evaluate(market, auction.build(market, ["gsp"])[0], num_samples=700, sizes=sizes)
  few = gsp()["mechanisms"]["gsp"]
  monkeypatch.setattr(audit_lib, "CELLS", 2**30)
  assert few == pytest.approx(gsp()["mechanisms"]["gsp"], rel=1e-9, abs=1e-12)


def test_profiles_by_hand():
  spec = {**SPEC, "bids": [[0.6, 0.9, 0.5], [0.0, 0.0, 0.0]]}
  spec.pop("similarity")
  spec.pop("externality")
  market = market_lib.from_dict(spec)
  report = auction.evaluate(market, auction.build(market, ["gsp", "vcg", "myerson", "first_price"])[0])
  assert report["num_samples"] == 0 and not report["mechanisms"]
  first, zero = report["profiles"]
  assert first["bids"] == [0.6, 0.9, 0.5]
  assert first["gsp"]["list"] == first["vcg"]["list"] == [1, 0]
  np.testing.assert_allclose(first["gsp"]["prices_per_click"], [0.2, 0.75, 0.0])
  np.testing.assert_allclose(first["gsp"]["click_probability"], [0.25, 0.4, 0.0])
  np.testing.assert_allclose(first["gsp"]["expected_payments"], [0.05, 0.3, 0.0])
  # VCG of a position auction: (.5 * .3 + .5 * .1) / (.4 * 1) for the top slot.
  np.testing.assert_allclose(first["vcg"]["prices_per_click"], [0.2, 0.5, 0.0])
  # Myerson: phi = .2, .8, 0: the top ad beats .2 * .5 = .4 phi for half of its clicks, its reserve for the others.
  np.testing.assert_allclose(first["myerson"]["prices_per_click"], [0.5, (0.625 + 0.5) / 2, 0.0])
  assert zero["myerson"]["list"] == [] and zero["vcg"]["expected_payments"] == [0, 0, 0]


def run(path, *arguments):
  command = [sys.executable, "-m", "launch.auction", f"--market={path}", *arguments]
  return subprocess.run(command, capture_output=True, text=True)


def test_command_line(tmp_path):
  path, output = tmp_path / "market.json", tmp_path / "out" / "report.json"
  path.write_text(json.dumps({**SPEC, "bids": [[0.6, 0.9, 0.5]]}))
  done = run(path, "--mechanisms=vcg,gsp", f"--output={output}")
  assert done.returncode == 0, done.stderr
  assert "prices per click" in done.stdout
  report = json.loads(output.read_text())
  assert report["profiles"][0]["vcg"]["list"] and "launch.auction" in report["command"] and report["commit"]


def test_bad_input_ends_with_two(tmp_path):
  path = tmp_path / "market.json"
  path.write_text(json.dumps({**SPEC, "bids": [[0.6, -0.9, 0.5]]}))
  done = run(path)
  assert done.returncode == 2 and "bids" in done.stderr and "-0.9" in done.stderr and str(path) in done.stderr
  with pytest.raises(ValueError, match="--mechanisms.*second_price"):
    auction.check(["vcg", "second_price"], None, None)
  with pytest.raises(ValueError, match="--num_samples"):
    auction.check(["vcg"], -1, None)
  with pytest.raises(ValueError, match="--reserve"):
    auction.check(["vcg"], None, float("nan"))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"externality": {"above": 800, "below": 0}}, "largest click probability of position and externality = 1.*e\\+173"),
    ({"externality": {"above": 8000, "below": 0}}, "externality = inf: must be at most 1e\\+06"),
    ({"bids": [[1e308, 0, 0]]}, "largest of bids = 1e\\+308: must be at most 1e\\+100"),
    ({"values": {"distribution": "lognormal", "mu": 800, "sigma": 1}}, "largest of values = inf: must be at most"),
  ],
)
def test_numbers_whose_prices_would_not_be_finite_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    market_lib.from_dict({**SPEC, **change})


@pytest.mark.parametrize("text", ["[" * 100_000, '{"slots": ' + "9" * 5000 + "}"])
def test_what_json_cannot_hold_names_the_file(tmp_path, text):
  path = tmp_path / "market.json"
  path.write_text(text)
  with pytest.raises(ValueError, match=f"{path}: not a readable JSON market"):
    market_lib.read(path)


def test_a_byte_order_mark_is_no_part_of_a_market(tmp_path):
  (tmp_path / "market.json").write_text(json.dumps(SPEC), encoding="utf-8-sig")
  assert market_lib.read(tmp_path / "market.json").name == "two"


def test_infinite_ratios_become_null():
  report = {"a": [float("inf"), 1.0, {"b": float("nan")}], "c": 2}
  assert auction.finite(report) == {"a": [None, 1.0, {"b": None}], "c": 2}
