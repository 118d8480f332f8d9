"""Exact mechanisms against closed forms, published anchors and slow independent oracles."""

import numpy as np
import pytest

import oracles
from ega_jax.auction import allocation, envelope, mechanisms, metrics, regret, values
from ega_jax.auction import market as market_lib

UNIFORM = {"distribution": "uniform", "low": 0.0, "high": 1.0}


def single_item(bidders, values_spec=UNIFORM):
  return build({"slots": 1, "quality": [1.0] * bidders, "position": [1.0], "values": values_spec})


def externality_spec(num_ads=4, slots=3, seed=0, values_spec=UNIFORM, above=-0.6, below=0.4):
  rng = np.random.default_rng(seed)
  return {
    "slots": slots, "quality": rng.uniform(0.2, 0.7, num_ads).tolist(), "position": [1.0, 0.7, 0.4, 0.3][:slots],
    "similarity": rng.uniform(-0.5, 1.0, (num_ads, num_ads)).tolist(),
    "externality": {"above": above, "below": below, "decay": 0.5}, "values": values_spec,
  }


def build(spec):
  market = market_lib.from_dict(spec)
  return market, market_lib.click_probabilities(market, market_lib.ordered_lists(market.num_ads, market.slots))


def sampled_revenue(market, mechanism, count, seed=0):
  value = market_lib.sample_values(market, np.random.default_rng(seed), count)
  outcome = mechanism(value)
  return (outcome.price * outcome.click_probability).sum(-1)


@pytest.mark.parametrize("bidders", [1, 2, 3, 4, 5, 10])
def test_single_item_revenue(bidders):
  market, theta = single_item(bidders)
  revenue = sampled_revenue(market, mechanisms.myerson(theta, market.distributions), 50_000)
  want = (bidders - 1) / (bidders + 1) + 1 / ((bidders + 1) * 2**bidders)
  assert abs(revenue.mean() - want) < 4 * metrics.standard_error(revenue)


def test_three_exponential_bidders():
  market, theta = single_item(3, {"distribution": "exponential", "mean": 3.0})
  revenue = sampled_revenue(market, mechanisms.myerson(theta, market.distributions), 100_000)
  assert abs(revenue.mean() - 2.751693) < 4 * metrics.standard_error(revenue)


def test_one_bidder_uniform_two_three_pays_two():
  market, theta = single_item(1, {"distribution": "uniform", "low": 2.0, "high": 3.0})
  mechanism = mechanisms.myerson(theta, market.distributions)
  np.testing.assert_allclose(sampled_revenue(market, mechanism, 100), 2.0, rtol=1e-14)
  below = mechanism(np.array([[1.9], [0.0]]))
  assert not below.click_probability.any() and not below.price.any()


def test_single_item_thresholds_with_different_distributions():
  spec = [UNIFORM, {"distribution": "lognormal", "mu": 0.0, "sigma": 0.6}]
  market, theta = single_item(2, spec)
  outcome = mechanisms.myerson(theta, market.distributions)(np.array([[0.9, 0.9], [0.6, 3.0], [0.4, 0.5]]))
  lognormal = market.distributions[1]
  # phi of the first is 2 v - 1: it must reach the other's phi, or 0.
  other = max(float(lognormal.virtual_value(0.9)), 0.0)
  np.testing.assert_allclose(outcome.price[0], [(other + 1) / 2, 0.0], rtol=1e-12)
  np.testing.assert_allclose(lognormal.virtual_value(outcome.price[1, 1]), 0.2, rtol=1e-9)
  assert outcome.click_probability[2].sum() == 0


def test_an_ad_with_negative_virtual_value_is_kept():
  spec = {
    "slots": 2, "quality": [0.5, 0.3], "position": [1.0, 1.0], "similarity": [[0, 1], [0, 0]],
    "externality": {"above": 1.0, "below": 1.0, "decay": 1.0}, "values": UNIFORM,
  }
  market, theta = build(spec)
  outcome = mechanisms.myerson(theta, market.distributions)(np.array([0.95, 0.45]))
  assert outcome.click_probability[1] > 0  # phi_2 = -0.1, but it lifts the first ad by e
  np.testing.assert_allclose(outcome.click_probability[0], 0.5 * np.e, rtol=1e-14)


@pytest.mark.parametrize(
  "values_spec",
  [
    UNIFORM, {"distribution": "uniform", "low": 0.5, "high": 1.5}, {"distribution": "exponential", "mean": 0.7},
    {"distribution": "lognormal", "mu": -0.4, "sigma": 0.6}, {"distribution": "lognormal", "mu": -0.4, "sigma": 2.0},
  ],
)
@pytest.mark.parametrize("name", ["myerson", "vcg"])
def test_payments_equal_integrals_of_brute_force(name, values_spec):
  spec = externality_spec(values_spec=values_spec)
  market, theta = build(spec)
  mechanism = mechanisms.on_market(market)[name]()
  for bids in market_lib.sample_values(market, np.random.default_rng(1), 3):
    phi = lambda b: [float(d.virtual_value(x)) for d, x in zip(market.distributions, b, strict=True)]
    weight = phi if name == "myerson" else list
    outcome, (_, click) = mechanism(bids), oracles.best(spec, weight(bids))
    np.testing.assert_allclose(outcome.click_probability, click, rtol=1e-12)
    for i in range(4):
      curve = lambda z, i=i, b=bids, w=weight: oracles.best(spec, w([*b[:i], z, *b[i + 1 :]]))[1][i]
      want = bids[i] * click[i] - oracles.step_integral(curve, bids[i], steps=40)
      np.testing.assert_allclose(outcome.price[i] * click[i], want, atol=1e-7 * max(1, bids[i]))


def test_uniform_closed_form_and_slope_of_the_maximum():
  spec = externality_spec(num_ads=5, slots=2)
  market, theta = build(spec)
  bids = np.random.default_rng(2).uniform(size=(50, 5))
  outcome = mechanisms.myerson(theta, market.distributions)(bids)
  best = lambda phi: (phi @ theta.T).max(-1)
  phi = 2 * bids - 1
  for i in range(5):
    lowest, up, down = phi.copy(), phi.copy(), phi.copy()
    lowest[:, i], up[:, i], down[:, i] = -1.0, up[:, i] + 1e-7, down[:, i] - 1e-7
    closed = bids[:, i] * outcome.click_probability[:, i] - (best(phi) - best(lowest)) / 2
    np.testing.assert_allclose((outcome.price * outcome.click_probability)[:, i], closed, atol=1e-14)
    np.testing.assert_allclose((best(up) - best(down)) / 2e-7, outcome.click_probability[:, i], atol=1e-6)


def test_envelope_sums_to_the_closed_form():
  market, theta = build(externality_spec(num_ads=5, slots=3))
  phi = 2 * np.random.default_rng(3).uniform(size=(40, 5)) - 1
  uniform = market.distributions[0]
  for i in range(5):
    intercept = np.where(np.arange(5) == i, 0.0, phi) @ theta.T
    breaks, slopes, lines = envelope.upper_envelope(intercept, theta[:, i])
    assert (breaks[:, 1:] <= breaks[:, :-1]).all() and (slopes[:, 1:] <= slopes[:, :-1]).all()
    segment = envelope.segment_of(breaks, phi[:, i : i + 1])
    np.testing.assert_array_equal(
      np.take_along_axis(lines, segment, -1)[:, 0], (intercept + phi[:, i : i + 1] * theta[:, i]).argmax(-1)
    )
    paid = envelope.threshold_payment(breaks, slopes, segment, uniform.inverse_virtual_value, 0.0)[:, 0]
    best = lambda own, intercept=intercept, i=i: (intercept + own * theta[:, i]).max(-1)
    x = theta[(intercept + phi[:, i : i + 1] * theta[:, i]).argmax(-1), i]
    value = (phi[:, i] + 1) / 2
    np.testing.assert_allclose(paid, value * x - (best(phi[:, i : i + 1]) - best(-1.0)) / 2, atol=1e-13)


def test_separable_vcg_is_the_lowest_symmetric_equilibrium_of_gsp():
  # Edelman, Ostrovsky and Schwarz 2007: p_k alpha_k = sum_{j >= k} (alpha_j - alpha_{j+1}) q_{j+1} b_{j+1} / q_k.
  spec = {"slots": 3, "quality": [0.5, 0.4, 0.6, 0.3], "position": [1.0, 0.6, 0.2], "values": UNIFORM}
  market, theta = build(spec)
  bids, quality, position = np.array([0.9, 0.7, 0.3, 0.8]), np.array(spec["quality"]), np.array([1.0, 0.6, 0.2, 0.0])
  order = np.argsort(-bids * quality)
  outcome = mechanisms.vcg(theta)(bids)
  for k in range(3):
    score = (quality * bids)[order]
    want = sum((position[j] - position[j + 1]) * score[j + 1] for j in range(k, 3)) / (quality[order[k]] * position[k])
    np.testing.assert_allclose(outcome.price[order[k]], want, rtol=1e-12)


def test_vcg_pivot_is_bid_zero_so_payments_are_not_negative():
  market, theta = build(externality_spec(above=0.9, below=0.9))
  bids = np.random.default_rng(4).uniform(size=(300, 4))
  x, price = (leaf for leaf in vars(mechanisms.vcg(theta)(bids)).values())
  assert price.min() >= 0 and (price <= bids).all()
  # Leaving the ad out altogether would charge less than nothing for lifting its neighbours.
  scores = bids @ theta.T
  without = np.stack([np.where(theta[:, i] > 0, -np.inf, scores).max(-1) for i in range(4)], -1)
  assert (without - (scores.max(-1)[:, None] - bids * x)).min() < -0.01


def test_vcg_range_with_organic_offset_against_loops():
  rng = np.random.default_rng(5)
  theta, offset, bids = rng.uniform(size=(2, 7, 3)), rng.uniform(size=(2, 7)), rng.uniform(size=(2, 4, 3))
  outcome = mechanisms.vcg_range(theta, offset=offset)(bids)
  for b, g in np.ndindex(2, 4):
    score = lambda bid, b=b: offset[b] + theta[b] @ bid
    top = score(bids[b, g]).argmax()
    np.testing.assert_allclose(outcome.click_probability[b, g], theta[b, top])
    for i in range(3):
      zero = np.where(np.arange(3) == i, 0.0, bids[b, g])
      want = score(zero).max() - (score(bids[b, g])[top] - bids[b, g, i] * theta[b, top, i])
      np.testing.assert_allclose(outcome.price[b, g, i] * theta[b, top, i], want, atol=1e-14)


@pytest.mark.parametrize("clicks", [False, True])
def test_sweep_equals_rerunning_the_mechanism(clicks):
  rng = np.random.default_rng(6)
  for theta in (rng.uniform(size=(9, 4)) * (rng.uniform(size=(9, 4)) < 0.7), rng.uniform(size=(3, 9, 4))):
    theta[..., 0, :] = 0.0
    distributions = (values.Uniform(0.2, 1), values.Lognormal(0, 0.6), values.Exponential(1), values.Lognormal(0, 2))
    mechanism = mechanisms.myerson(theta, distributions, clicks=theta * 0.5 if clicks else None)
    bids, ads = rng.uniform(0.2, 3, (3, 4)), np.array([[0, 1], [2, 3], [-1, 1]])
    nodes = regret.own_bid_nodes(np.full((3, 2), 2.0), 17)
    swept = regret.counterfactual_table(mechanism, bids, ads, nodes)
    rerun = regret.counterfactual_table(lambda b, m=mechanism: m(b), bids, ads, nodes)
    np.testing.assert_allclose(swept.x, rerun.x, atol=1e-12)
    np.testing.assert_allclose(swept.price, rerun.price, atol=1e-9)
    assert swept.x.any()


def test_gsp_by_hand_with_reserve():
  spec = {"slots": 2, "quality": [0.5, 0.4, 0.2], "position": [1.0, 0.5], "values": UNIFORM}
  market, theta = build(spec)
  run = lambda reserve, bids: mechanisms.on_market(market, reserve=reserve)["gsp"]()(np.array(bids))
  outcome = run(0.0, [0.6, 0.9, 0.5])  # scores .30 .36 .10
  np.testing.assert_allclose(outcome.price, [0.10 / 0.5, 0.30 / 0.4, 0.0])
  np.testing.assert_allclose(outcome.click_probability, [0.5 * 0.5, 0.4, 0.0])
  outcome = run(0.55, [0.6, 0.9, 0.5])
  np.testing.assert_allclose(outcome.price, [0.55, 0.75, 0.0])
  outcome = run(0.7, [0.6, 0.9, 0.5])
  np.testing.assert_allclose(outcome.price, [0.0, 0.7, 0.0])
  reserves = mechanisms.myerson_reserves((values.Uniform(0, 1), values.Uniform(2, 3), values.Exponential(3.0)))
  np.testing.assert_allclose(reserves, [0.5, 2.0, 3.0])


def test_slot_threshold_price_is_gsp_on_an_ecpm_ranking():
  spec = {"slots": 3, "quality": [0.5, 0.4, 0.6, 0.3, 0.45], "position": [1.0, 0.6, 0.3], "values": UNIFORM}
  market, theta = build(spec)
  quality = market.quality

  def allocate(bids):
    ranked = allocation.ranked_lists(bids.reshape(-1, 5) * quality, 3)
    return market_lib.click_probabilities(market, ranked).reshape(bids.shape), ranked.reshape(bids.shape[:-1] + (3,))

  bids = np.random.default_rng(7).uniform(size=(20, 5))
  ads = np.broadcast_to(np.arange(5), (20, 5))
  nodes = np.sort(np.concatenate([regret.own_bid_nodes(np.ones((20, 5)), 64, span=1.0), bids[..., None]], -1), -1)
  table = regret.counterfactual_table(allocate, bids, ads, nodes)
  table = regret.refine_table(allocate, bids, table, rounds=30, splits=4)
  price = mechanisms.slot_threshold_gsp(table.nodes, regret.own_slot(table.payload, ads), table.x)
  own, _ = regret.round_down(bids, table.nodes)
  want = mechanisms.gsp(quality, 3, lambda lists: market_lib.click_probabilities(market, lists))(bids)
  np.testing.assert_allclose(regret.take_node(price, own), want.price, atol=1e-6)
  assert (want.price > 0).sum() == 60


def test_slot_threshold_on_coarse_nodes_is_gsp_on_average():
  # As payments.slot_threshold asks for it: 41 geometric nodes and the own bid, clicks that do not depend on the slot.
  rng = np.random.default_rng(0)
  quality = np.exp(rng.normal(-3, 0.8, (200, 30)))
  bids = np.exp(rng.normal(0, 1, (200, 30)))
  ads = np.argsort(-bids * quality, axis=-1)[:, :6]

  def allocate(bids):
    score = bids * quality[:, None]
    ranked = np.argsort(-score, axis=-1)[..., :6]
    return np.where(score >= np.take_along_axis(score, ranked[..., 5:], -1), quality[:, None], 0), ranked

  own = np.take_along_axis(bids, ads, -1)
  grid = regret.own_bid_nodes(np.full(ads.shape, 20.0), 41, spacing="geometric")
  nodes = np.sort(np.concatenate([grid, own[..., None]], -1), -1)
  table = regret.counterfactual_table(allocate, bids, ads, nodes, chunk=42)
  price = mechanisms.slot_threshold_gsp(nodes, regret.own_slot(table.payload, ads), table.x)
  price = regret.take_node(price, (nodes <= own[..., None]).sum(-1) - 1)
  score = -np.sort(-bids * quality, axis=-1)
  want = score[:, 1:7] / np.take_along_axis(quality, ads, -1)
  assert abs((price / want).mean() - 1) < 0.01 and np.abs(price / want - 1).max() < 0.1
  assert (price < own).all() and abs((price * want).sum() / (want * want).sum() - 1) < 0.01


def test_slot_threshold_stops_at_the_first_loss():
  # Slots by node: kept, lost (worse), kept again: only the connected part counts.
  nodes, slot = np.arange(6.0)[None, None], np.array([[[9, 0, 2, 0, 1, 0]]])
  price = mechanisms.slot_threshold_gsp(nodes, slot, slot < 9)
  np.testing.assert_allclose(price[0, 0], [0, 0.5, 0.5, 2.5, 2.5, 4.5])


def test_myerson_revenue_is_the_bound_and_beats_vcg():
  market, theta = build(externality_spec(num_ads=5, slots=3, seed=8))
  value = market_lib.sample_values(market, np.random.default_rng(0), 4000)
  totals = {
    name: metrics.outcome_totals(make()(value), value, market.distributions)
    for name, make in mechanisms.on_market(market).items()
  }
  bound = (values.virtual_values(market.distributions, value) @ theta.T).max(-1)
  np.testing.assert_allclose(totals["myerson"]["virtual_surplus"], bound, atol=1e-12)
  for name in ("vcg", "vcg_range", "separable_myerson"):
    assert (totals[name]["virtual_surplus"] <= bound + 1e-12).all()
  assert totals["myerson"]["revenue"].mean() > totals["vcg"]["revenue"].mean() > 0
  assert totals["vcg"]["welfare"].mean() >= max(t["welfare"].mean() for t in totals.values()) - 1e-12


def test_range_keeps_the_empty_list_and_the_largest():
  market, theta = build(externality_spec() | {"quality": [0.5, 0.0, 0.4, 0.3]})
  lists = market_lib.ordered_lists(market.num_ads, market.slots)
  rows = allocation.range_of(theta, lists, 5)
  assert rows[0] == 0 and len(rows) == 6
  full = np.nonzero((lists >= 0).sum(-1) == 3)[0]  # an ad that is never clicked has its place, and its neighbours
  best = full[np.argsort(-theta[full].sum(-1), kind="stable")[:5]]
  assert set(rows[1:]) == set(best)


def test_an_ad_of_quality_zero_is_ranked_last_and_moves_its_neighbours():
  market, _ = build(externality_spec(num_ads=3) | {"quality": [0.5, 0.0, 0.4]})
  auction = mechanisms.on_market(market)["gsp"]()
  bids = np.array([[0.9, 0.8, 0.7]])
  assert auction.shown_lists(bids)[0].tolist() == [0, 2, 1]
  outcome = auction(bids)
  np.testing.assert_allclose(outcome.click_probability, market_lib.click_probabilities(market, np.array([[0, 2, 1]])))
  np.testing.assert_allclose(outcome.price, [[0.4 * 0.7 / 0.5, 0.0, 0.0]])


def test_first_price_leaves_no_utility_at_all():
  market, theta = build(externality_spec())
  mechanism, value = mechanisms.first_price(theta), np.random.default_rng(0).random((50, 4))
  outcome = mechanism(value)
  np.testing.assert_array_equal(outcome.price, np.where(outcome.click_probability > 0, value, 0.0))
  found = regret.summarise_regret(metrics.regret_and_curves(mechanism, value, np.linspace(0, 1, 21))[0])
  assert found["regret_over_utility"] == np.inf and metrics.psi(mechanism, value)[1] == np.inf
