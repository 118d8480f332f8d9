"""Metrics and the shading equilibrium on mechanisms whose answers are known."""

import numpy as np
import pytest

from ega_jax import types
from ega_jax.auction import equilibrium, mechanisms, metrics, values

UNIT = (values.Uniform(0.0, 1.0),) * 2
ITEM = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # nobody, the first, the second


def posted(price):
  """Returns the mechanism that sells a click probability of .5 to everybody at a posted price."""

  def mechanism(bids):
    x = 0.5 * (np.asarray(bids) >= price)
    return types.Outcome(click_probability=x, price=np.where(x > 0, price, 0.0))

  return mechanism


def test_totals_and_participation_by_hand():
  outcome = types.Outcome(click_probability=np.array([[0.5, 0.2, 0.0]]), price=np.array([[0.4, 1.0, 0.0]]))
  uniform = (values.Uniform(0, 1),) * 3
  totals = metrics.outcome_totals(outcome, np.array([[0.8, 0.9, 0.7]]), uniform)
  want = dict(revenue=0.4, welfare=0.58, clicks=0.7, ads_shown=2, virtual_surplus=0.6 * 0.5 + 0.8 * 0.2)
  assert {name: float(total[0]) for name, total in totals.items()} == pytest.approx(want)
  checked = metrics.participation(outcome, np.array([[0.8, 0.9, 0.7]]))
  assert checked["ir_violations"] == 1
  assert checked["min_slack"] == pytest.approx(-0.1) and checked["min_payment"] == pytest.approx(0.4)


def test_psi_of_first_price_by_hand():
  # Value 1 against .45, gammas in fifths: .6 wins and earns .4; truth earns 0, so the floor divides.
  mechanism = mechanisms.first_price(ITEM)
  literal, ratio = metrics.psi(mechanism, np.array([[1.0, 0.45]]), floor=0.1)
  assert literal == pytest.approx(0.4 / 0.1) and ratio == float("inf")


def test_psi_is_zero_at_gamma_one_for_any_mechanism():
  value = np.random.default_rng(0).uniform(size=(50, 2))
  for mechanism in (mechanisms.first_price(ITEM), mechanisms.vcg(ITEM), posted(0.3)):
    assert metrics.psi(mechanism, value, gammas=(1.0,)) == (0.0, 0.0)
  assert metrics.psi(mechanisms.first_price(ITEM), value)[0] > 1.0


def test_i_sic_is_one_for_truthful_and_zero_for_first_price():
  value = np.random.default_rng(1).uniform(size=(4000, 2))
  assert metrics.i_sic(mechanisms.first_price(ITEM), value) == pytest.approx(0.0, abs=0.03)
  assert metrics.i_sic(mechanisms.vcg(ITEM), value) == pytest.approx(1.0, abs=0.01)


def test_payment_identity_residual():
  bids = np.random.default_rng(2).uniform(size=(20, 2))
  assert metrics.payment_identity_residual(mechanisms.myerson(ITEM, UNIT), bids).max() < 1e-6
  assert metrics.payment_identity_residual(posted(0.3), bids).max() < 1e-6
  residual = metrics.payment_identity_residual(mechanisms.first_price(ITEM), bids)
  np.testing.assert_allclose(residual.max(-1), bids.max(-1) - bids.min(-1), atol=1e-6)


def test_regret_and_curves_flag_a_fall():
  def mechanism(bids):
    x = np.where(bids > 0.6, 0.1, np.where(bids > 0.3, 0.5, 0.0))
    return types.Outcome(click_probability=x, price=0 * x)

  lost, falling = metrics.regret_and_curves(mechanism, np.array([[0.2, 0.9]]), np.linspace(0, 1, 11))
  assert falling.all()
  np.testing.assert_allclose(lost.regret, [[0.2 * 0.5, 0.9 * 0.4]])


def test_a_truthful_mechanism_stays_at_one():
  rng = np.random.default_rng(3)
  value, deviators = rng.uniform(size=(500, 2)), rng.integers(2, size=500)
  utility = equilibrium.deviator_utility(mechanisms.vcg(ITEM), value, deviators)
  result = equilibrium.symmetric_shading_equilibrium(utility)
  assert result.converged and result.multiplier == 1.0 and result.rounds == 1 and result.gain == 0.0


def test_first_price_with_two_uniform_bidders_shades_to_a_half():
  rng = np.random.default_rng(4)
  value, deviators = rng.uniform(size=(20_000, 2)), rng.integers(2, size=20_000)
  utility = equilibrium.deviator_utility(mechanisms.first_price(ITEM), value, deviators)
  result = equilibrium.symmetric_shading_equilibrium(utility)
  assert result.converged and abs(result.multiplier - 0.5) < 0.06 and result.gain < 0.01
  # One step by hand: E[(1 - m) v 1(m v > v')] with the other truthful = (1 - m) m / 3, best at m = .5.
  assert utility(1.0, 0.5) == pytest.approx(0.25 / 3, abs=0.003)


def test_equilibrium_by_hand_and_without_convergence():
  # Best response to g is always .5, worth double: g = 1, .75, .625, .5625, .. until the gain is below 1%.
  target = lambda g, m: 1.0 - (m - 0.5) ** 2
  result = equilibrium.symmetric_shading_equilibrium(target)
  assert result.path[:4] == (1.0, 0.75, 0.625, 0.5625) and result.converged and str(result) == "0.562"
  assert result.gain == pytest.approx((1 - (1 - 0.0625**2)) / (1 - 0.0625**2))
  cycling = lambda g, m: 1.0 + (m == (1.2 if g < 0.7 else 0.3))
  result = equilibrium.symmetric_shading_equilibrium(cycling)
  assert not result.converged and result.multiplier is None and str(result) == "none" and result.rounds == 12
  assert equilibrium.MULTIPLIERS[0] == 0.3 and equilibrium.MULTIPLIERS[-1] == 1.2 and len(equilibrium.MULTIPLIERS) == 19
