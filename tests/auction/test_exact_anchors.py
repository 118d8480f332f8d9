"""Exact rationals of separable position auctions, and the equilibrium of generalised second prices in them."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from ega_jax.auction import market, mechanisms, metrics, regret

UNIFORM = {"distribution": "uniform", "low": 0.0, "high": 1.0}
POSITIONS = [(1, 1), (1, Fraction(3, 5)), (1, Fraction(1, 2), Fraction(1, 4))]


def build(ads, position):
  spec = {"slots": len(position), "quality": [0.5] * ads, "position": list(map(float, position)), "values": UNIFORM}
  shop = market.from_dict(spec)
  lists = market.ordered_lists(shop.num_ads, shop.slots)
  return shop, lists, market.click_probabilities(shop, lists)


def integral_above_half(ads, rank):
  """Returns E[(2 V - 1)+] of the rank-th largest V of `ads` uniform values: an integral of a polynomial, exactly.

  Its density is rank * C(ads, rank) * v^(ads - rank) * (1 - v)^(rank - 1), of which the last factor is expanded.
  """
  total = Fraction(0)
  for k in range(rank):
    power, factor = ads - rank + k, (-1) ** k * comb(rank - 1, k)
    part = lambda n: (1 - Fraction(1, 2) ** (n + 1)) / (n + 1)  # integral of v^n from 1/2 to 1
    total += factor * (2 * part(power + 1) - part(power))
  return rank * comb(ads, rank) * total


def optimal_revenue(ads, position):
  """Myerson's revenue with quality 1/2: slots go to the largest positive virtual values 2 v - 1."""
  ranks = range(1, min(ads, len(position)) + 1)
  return sum(Fraction(position[k - 1]) * integral_above_half(ads, k) for k in ranks) / 2


def vcg_revenue(ads, position):
  """What the ads below each slot lose by the one in it: (k - 1) * (c_(k-1) - c_k) * E[k-th largest value], summed."""
  factors = [Fraction(one) for one in position] + [Fraction(0)]
  lost = lambda k: (k - 1) * (factors[k - 2] - factors[k - 1]) * Fraction(ads + 1 - k, ads + 1)
  return sum(lost(k) for k in range(2, min(ads, len(position) + 1) + 1)) / 2


@pytest.mark.parametrize("ads", range(1, 11))
def test_the_rational_of_one_slot_is_the_published_bound(ads):
  bound = Fraction(ads - 1, ads + 1) + Fraction(1, (ads + 1) * 2**ads)
  assert integral_above_half(ads, 1) == bound
  _, _, theta = build(ads, (1,))
  values = np.random.default_rng(ads).random((20_000, ads))
  outcome = mechanisms.myerson(theta, market.from_dict(
    {"slots": 1, "quality": [1.0] * ads, "position": [1.0], "values": UNIFORM}).distributions)(values)  # fmt: skip
  revenue = (outcome.price * outcome.click_probability).sum(-1)
  assert abs(revenue.mean() - float(bound) / 2) < 4 * metrics.standard_error(revenue)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("ads", [2, 3, 5])
def test_position_auctions_earn_their_rationals(ads, position):
  shop, lists, theta = build(ads, position)
  values = market.sample_values(shop, np.random.default_rng(0), 40_000)
  for mechanism, exact in (
    (mechanisms.myerson(theta, shop.distributions, lists=lists), optimal_revenue(ads, position)),
    (mechanisms.vcg(theta, lists=lists), vcg_revenue(ads, position)),
  ):
    outcome = mechanism(values)
    revenue = (outcome.price * outcome.click_probability).sum(-1)
    assert abs(revenue.mean() - float(exact)) < 4 * metrics.standard_error(revenue) + 1e-12, (exact, revenue.mean())


@pytest.mark.parametrize("seed", range(3))
def test_the_lowest_symmetric_equilibrium_of_gsp_pays_what_vcg_does(seed):
  """Edelman, Ostrovsky and Schwarz 2007: nobody gains by another bid, and payments are VCG's at the values."""
  position = (1.0, 0.6, 0.25)
  shop, lists, theta = build(5, position)
  values = np.sort(np.random.default_rng(seed).random(5))[::-1]
  bids = values.copy()  # the highest bid and those without a slot change nothing
  for k in range(len(position) - 1, 0, -1):
    above, own = position[k - 1], position[k]
    bids[k] = ((above - own) * values[k] + own * bids[k + 1]) / above
  clicks = lambda shown: market.click_probabilities(shop, shown)
  auction = mechanisms.gsp(shop.quality, shop.slots, clicks)
  outcome, vcg = auction(bids[None]), mechanisms.vcg(theta, lists=lists)(values[None])
  np.testing.assert_allclose(outcome.click_probability, vcg.click_probability)
  paid = lambda found: found.price * found.click_probability
  np.testing.assert_allclose(paid(outcome), paid(vcg), atol=1e-12)
  grid = np.linspace(0.0, 1.2, 601)
  ads = np.arange(5)[None]
  nodes = np.sort(np.concatenate([np.broadcast_to(grid, (1, 5, 601)), bids[None, :, None]], -1), -1)
  table = regret.counterfactual_table(auction, bids[None], ads, nodes)
  utility = (values[None, :, None] - table.price) * table.x
  at_bids = (values - outcome.price[0]) * outcome.click_probability[0]
  assert (utility.max(-1)[0] <= at_bids + 1e-9).all()
  truthful = auction(values[None])
  assert paid(truthful).sum() > paid(vcg).sum()  # at the values it would charge more, and is no equilibrium
