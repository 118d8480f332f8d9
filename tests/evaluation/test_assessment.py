"""RPM (c) at the slot price of truthful bids and at equal ad load; rows of another origin."""

import json
import types

import pytest

import oracles_evaluation as toy
from ega_jax.evaluation import assessment, equilibrium, kept_rows, payments


class Recorded:
  """A setting that tells at which g it was asked, and at which finely."""

  def __init__(self, system, rule):
    self.pair, self.asked, self.finely = (system, rule), [], []

  def __call__(self, shading, finely=False):
    (self.finely if finely else self.asked).append(shading)
    return self.pair


def _equilibria(rule_of, loads):
  world = toy.ToyWorld(num_requests=40)
  fixed, other = (toy.AffineMaximiser(world, num_lists=lists) for lists in (12, 30))
  equal = Recorded(other, rule_of(other))
  entry = types.SimpleNamespace(system=fixed, rule=rule_of(fixed))
  options = types.SimpleNamespace(equilibrium_requests=40, unshown=4, chunk=8, equilibrium_loads=loads)
  config = types.SimpleNamespace(evaluation=options, value_sigma=0.6, seed=0)
  paid = lambda setting, g: (setting[0], g)
  found = assessment.equilibria(
    entry, config, None, types.SimpleNamespace(by_bids=lambda entry: equal), world.columns, "truthful", paid
  )
  sampled = equilibrium.EquilibriumOptions(num_requests=40, num_unshown=4, seed=0)
  expected = [
    equilibrium.shading_equilibrium(lambda g, system=system: (system, rule_of(system)), world.columns, None, sampled)
    for system in (fixed, other)
  ]
  return *found, expected, equal, (fixed, other)


def test_each_load_has_its_own_equilibrium():
  figures, totals, expected, equal, systems = _equilibria(lambda system: payments.FirstPrice(), ("fixed", "equal"))
  assert [figures["shading"], figures["shading_equal"]] == [one.multiplier for one in expected]
  assert figures["residual_gain"] == expected[0].gain and figures["residual_gain_equal"] == expected[1].gain
  gains = [figures["gain_by_value"], figures["gain_by_value_equal"]]
  assert gains == [one.gain_by_value for one in expected] and min(gains) > 0
  assert expected[0].multiplier != expected[1].multiplier and max(figures["shading"], figures["shading_equal"]) < 1
  assert totals == {
    "equilibrium": (systems[0], expected[0].multiplier), "equilibrium_equal": (systems[1], expected[1].multiplier)
  }  # fmt: skip
  assert set(equal.asked) == set(expected[1].path)
  assert equal.finely == [expected[1].multiplier]


def test_a_rule_under_which_nobody_shades_is_the_same_at_both_and_found_once():
  figures, totals, _, equal, _ = _equilibria(toy.PivotPayment, ("fixed", "equal"))
  assert figures["shading"] == figures["shading_equal"] == 1.0 and not equal.asked
  assert totals == {"equilibrium": "truthful", "equilibrium_equal": "truthful"}


@pytest.mark.parametrize("load", ["fixed", "equal"])
def test_only_the_loads_that_are_named(load):
  figures, totals, _, _, _ = _equilibria(lambda system: payments.FirstPrice(), (load,))
  end = "" if load == "fixed" else "_equal"
  assert set(figures) == {f"{name}{end}" for name in ("shading", "residual_gain", "gain_by_value")}
  assert set(totals) == {f"equilibrium{end}"}


def test_rows_of_another_origin_are_never_written_over(tmp_path):
  output = tmp_path / "evaluation"
  kept_rows.set_aside(str(output))
  assert not list(tmp_path.iterdir())
  for number in (1, 2, 3):
    output.mkdir()
    kept_rows.set_aside(str(output))
    assert output.is_dir()  # without figures nothing was measured
    (output / "figures.json").write_text(json.dumps(number))
    (output / "EGA.npz").write_text("row")
    kept_rows.set_aside(str(output))
    assert not output.exists()
  for number in (1, 2, 3):
    kept = tmp_path / f"evaluation.{number}"
    assert json.loads((kept / "figures.json").read_text()) == number and (kept / "EGA.npz").is_file()
