"""Laws over a table of all mechanisms on random markets with permutation externalities."""

import dataclasses

import numpy as np
import pytest

import oracles
from ega_jax import types
from ega_jax.auction import market as market_lib
from ega_jax.auction import mechanisms, metrics, regret, values

TRUTHFUL = ("myerson", "vcg", "vcg_range")
EVERY = (*TRUTHFUL, "gsp", "gsp_reserve", "first_price", "separable_myerson")
VALUES = {
  "uniform": {"distribution": "uniform", "low": 0.0, "high": 1.0},
  "shifted": {"distribution": "uniform", "low": 2.0, "high": 3.0},
  "exponential": {"distribution": "exponential", "mean": 1.0},
  "lognormal": {"distribution": "lognormal", "mu": 0.0, "sigma": 0.6},
  "irregular": {"distribution": "lognormal", "mu": 0.0, "sigma": 2.0},
}


def spec_of(name, ads=5, slots=3, seed=0):
  rng = np.random.default_rng(seed)
  return {
    "slots": slots, "quality": rng.uniform(0.2, 0.7, ads).tolist(), "position": [1.0, 0.6, 0.36][:slots],
    "similarity": rng.uniform(-0.5, 1.0, (ads, ads)).tolist(),
    "externality": {"above": -0.6, "below": 0.3, "decay": 0.5}, "values": VALUES[name],
  }


def build(name, mechanism, seed=0):
  market = market_lib.from_dict(spec_of(name, seed=seed))
  return market, mechanisms.on_market(market)[mechanism]()


def draw(market, count, seed=1):
  return market_lib.sample_values(market, np.random.default_rng(seed), count)


@pytest.mark.parametrize("mechanism", EVERY)
@pytest.mark.parametrize("name", VALUES)
def test_individual_rationality(name, mechanism):
  market, run = build(name, mechanism)
  bids = draw(market, 300)
  outcome = run(bids)
  assert (outcome.price >= 0).all() and (outcome.price <= bids).all()
  assert (outcome.price[outcome.click_probability == 0] == 0).all()
  assert outcome.click_probability.any()
  assert metrics.participation(outcome, bids)["ir_violations"] == 0


@pytest.mark.parametrize("mechanism", TRUTHFUL)
@pytest.mark.parametrize("name", VALUES)
def test_regret_is_zero_on_the_grid_and_curves_rise(name, mechanism):
  market, run = build(name, mechanism)
  value = draw(market, 30)
  grid = values.misreport_grid(market.distributions[0], value.max(-1))[:, None]
  assert grid.shape == (30, 1, 201)
  lost, falling = metrics.regret_and_curves(run, value, grid)
  scale = float(np.median(market.distributions[0].quantile(0.5)))
  assert lost.regret.max() <= 1e-6 * scale and not falling.any()
  assert (lost.utility >= -1e-12).all()


@pytest.mark.parametrize("mechanism", ["gsp", "first_price"])
def test_manipulable_mechanisms_show_regret(mechanism):
  market, run = build("uniform", mechanism)
  value = draw(market, 50)
  lost, _ = metrics.regret_and_curves(run, value, np.linspace(0, 1, 201))
  assert lost.regret.mean() > 1e-3 and metrics.psi(run, value)[0] > 0.01


@pytest.mark.parametrize("mechanism", EVERY)
def test_scaling_by_one_alone_gives_no_regret(mechanism):
  market, run = build("uniform", mechanism)
  assert metrics.psi(run, draw(market, 20), gammas=(1.0,)) == (0.0, 0.0)


@pytest.mark.parametrize("mechanism", TRUTHFUL)
@pytest.mark.parametrize("name", VALUES)
def test_revenue_is_the_virtual_surplus(name, mechanism):
  # Paired per profile; where the lowest value is not 0 a pivot at bid 0 leaves VCG's lowest type a utility.
  market, run = build(name, mechanism)
  value = draw(market, 6000)
  totals = metrics.outcome_totals(run(value), value, market.distributions)
  difference = totals["revenue"] - totals["virtual_surplus"]
  if name == "shifted" and mechanism != "myerson":
    assert difference.mean() < -4 * metrics.standard_error(difference)
  else:
    assert abs(difference.mean()) <= 4 * metrics.standard_error(difference)


@pytest.mark.parametrize("mechanism", EVERY)
def test_batch_equals_loop_and_any_leading_axes(mechanism):
  market, run = build("lognormal", mechanism)
  bids = draw(market, 12)
  whole, shaped = run(bids), run(bids.reshape(3, 4, 5))
  for leaf in ("click_probability", "price"):
    np.testing.assert_allclose(getattr(shaped, leaf).reshape(12, 5), getattr(whole, leaf), rtol=1e-12)
    one = np.stack([getattr(run(profile), leaf) for profile in bids])
    np.testing.assert_allclose(one, getattr(whole, leaf), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mechanism", TRUTHFUL)
def test_permuting_the_ads_permutes_the_outcome(mechanism):
  spec, order = spec_of("uniform"), [3, 0, 4, 1, 2]
  permuted = {**spec, "quality": [spec["quality"][i] for i in order]}
  permuted["similarity"] = np.array(spec["similarity"])[np.ix_(order, order)].tolist()
  bids = np.random.default_rng(2).uniform(size=(40, 5))
  outcomes = []
  for one in (spec, permuted):
    market = market_lib.from_dict(one)
    outcomes.append(mechanisms.on_market(market)[mechanism]()(bids if one is spec else bids[:, order]))
  for leaf in ("click_probability", "price"):
    np.testing.assert_allclose(getattr(outcomes[1], leaf), getattr(outcomes[0], leaf)[:, order], atol=1e-12)


@pytest.mark.parametrize("name", VALUES)
def test_organic_items_pay_nothing(name):
  # An organic item is a column that bids 0 and a fixed offset: it earns clicks and is charged nothing.
  market, _ = build(name, "vcg")
  theta = market_lib.click_probabilities(market, market_lib.ordered_lists(5, 3))
  offset = 0.4 * theta[:, 4]
  bids = draw(market, 200)
  bids[:, 4] = 0.0
  shown_for_free = 0
  for run in (mechanisms.vcg(theta, offset=offset), mechanisms.first_price(theta, offset=offset)):
    outcome = run(bids)
    assert (outcome.price[:, 4] == 0).all()
    shown_for_free += (outcome.click_probability[:, 4] > 0).sum()
  assert shown_for_free > 0


@pytest.mark.parametrize("mechanism", ["myerson", "vcg"])
def test_the_choice_is_the_brute_force_optimum(mechanism):
  spec = spec_of("uniform", seed=3)
  market, run = build("uniform", mechanism, seed=3)
  for bids in draw(market, 10):
    weights = 2 * bids - 1 if mechanism == "myerson" else bids
    np.testing.assert_allclose(run(bids).click_probability, oracles.best(spec, weights)[1], rtol=1e-12)


@pytest.mark.parametrize("mechanism", EVERY)
def test_the_node_payment_of_any_allocation_is_truthful_where_it_rises(mechanism):
  market, run = build("uniform", mechanism)
  bids = draw(market, 10)
  ads = np.broadcast_to(np.arange(5), bids.shape)
  table = regret.counterfactual_table(run, bids, ads, regret.own_bid_nodes(np.ones(bids.shape), 64))
  price = regret.myerson_integral(table).price
  rising = ~regret.falls(table.x)[0]
  assert rising.any()
  for own in range(0, 64, 7):
    lost = regret.regret_table(table.x, price, table.nodes, np.full(ads.shape, own)).regret
    assert lost[rising].max() <= 1e-12


def test_a_users_own_mechanism_is_audited_by_the_same_code():
  def half_price(bids):
    x = 0.5 * (bids >= bids.max(-1, keepdims=True))
    return types.Outcome(click_probability=x, price=np.where(x > 0, bids / 2, 0.0))

  value = np.random.default_rng(4).uniform(size=(2000, 3))
  lost = regret.ex_post_regret(half_price, value, np.linspace(0, 1, 201))
  # The best bid is the next grid point above the others' best: at half its price, if that is worth winning.
  ranked = np.sort(value, -1)
  winner = 0.5 * (ranked[:, 2] - ranked[:, 1]) / 2
  losers = 0.5 * np.maximum(ranked[:, :2] - ranked[:, 2:] / 2, 0).sum(-1)
  np.testing.assert_allclose(lost.regret.sum(-1).mean(), (winner + losers).mean(), rtol=0.02)
  assert metrics.i_sic(half_price, value) > 1.2  # bidding up pays
  shifted = dataclasses.replace(half_price(value), price=value * 1.1)
  assert metrics.participation(shifted, value)["ir_violations"] == 2000
