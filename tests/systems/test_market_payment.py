"""Payments learned on the frozen lists of an exact market."""

import numpy as np
import pytest

from ega_jax.auction import audit, mechanisms, regret
from ega_jax.auction import market as market_lib
from ega_jax.evaluation import auction_plots
from ega_jax.stages import market_payment as learning
from ega_jax.systems import market_payment as learned
from launch import auction

SPEC = {
  "name": "three", "slots": 2, "quality": [0.6, 0.5, 0.3], "position": [1.0, 0.5],
  "similarity": [[0, 0.5, 0], [0.5, 0, 0.2], [0, 0.2, 0]],
  "externality": {"above": -0.6, "below": -0.3, "decay": 0.5},
  "values": {"distribution": "uniform", "low": 0.0, "high": 1.0},
}  # fmt: skip
SMALL = {"steps": 60, "profiles": 256, "nodes": 32, "values": 8}
MARKET = market_lib.from_dict(SPEC)
OPTIMUM = mechanisms.on_market(MARKET)["myerson"]()


@pytest.fixture(scope="module", params=learned.FORMS)
def found(request):
  """Returns (form, the MarketPayment, its figures)."""
  return request.param, *auction.learn(MARKET, OPTIMUM, learned.Options(request.param, **SMALL))


def test_no_price_is_above_its_bid_and_the_lists_are_the_allocations(found):
  _, mechanism, _ = found
  bids = market_lib.sample_values(MARKET, np.random.default_rng(0), 300)
  outcome = mechanism(bids)
  np.testing.assert_array_equal(outcome.click_probability, OPTIMUM(bids).click_probability)
  assert (outcome.price <= bids).all() and (outcome.price >= 0).all() and outcome.price.max() > 0.2
  assert not outcome.price[outcome.click_probability == 0].any()


def test_a_sweep_is_its_profiles_one_at_a_time(found):
  _, mechanism, _ = found
  rng = np.random.default_rng(1)
  bids, ads = market_lib.sample_values(MARKET, rng, 3), np.array([[0, 2], [1, 0], [2, 1]])
  nodes = np.sort(rng.random((3, 2, 5)), -1)
  table = mechanism.sweep(bids, ads, nodes)
  for b, a, g in np.ndindex(nodes.shape):
    profile = bids[b].copy()
    profile[ads[b, a]] = nodes[b, a, g]
    one = mechanism(profile[None])
    assert table.price[b, a, g] == pytest.approx(one.price[0, ads[b, a]], abs=1e-5)
    assert table.x[b, a, g] == one.click_probability[0, ads[b, a]]


def test_the_menu_over_the_curve_is_nearly_the_myerson_payment(found):
  form, mechanism, figures = found
  values = market_lib.sample_values(MARKET, np.random.default_rng(2), 400)
  sizes = audit.Sizes(regret_profiles=100, identity_profiles=10, block=50)
  sample = iter([values]).__next__
  audited = audit.audit(mechanism, MARKET.distributions, lambda count: sample(), len(values), sizes)
  if form == "price":
    best = OPTIMUM(values)
    revenue = (best.price * best.click_probability).sum(-1).mean()
    assert audited["mean_regret"] < 2e-4 and audited["revenue"] == pytest.approx(revenue, rel=0.02)
    assert figures["payment_correlation"] > 0.998 and figures["payment_mae"] < 5e-3
  else:
    assert audited["mean_regret"] > 1e-4  # 60 steps: far from done
  assert audited["ir_violations"] == 0


def test_the_own_bid_reaches_a_price_through_the_list_alone(found):
  form, mechanism, _ = found
  if form == "rate":
    return
  bids = market_lib.sample_values(MARKET, np.random.default_rng(3), 60)
  ads = np.broadcast_to(np.arange(3), bids.shape)
  nodes = np.broadcast_to(np.linspace(0.5, 1.0, 40), (*bids.shape, 40))
  table = regret.counterfactual_table(mechanism, bids, ads, nodes)
  same = (np.diff(table.x, axis=-1) == 0) & (table.x[..., 1:] > 0) & (table.price[..., :-1] < nodes[..., :-1] - 1e-6)
  if form == "critical":  # another list can have the same click probability
    lists = mechanism.shown_lists(regret.with_own_bid(bids, np.repeat(ads, 40, 1), nodes.reshape(60, -1)))
    lists = lists.reshape(*nodes.shape, -1)
    same &= (lists[..., 1:, :] == lists[..., :-1, :]).all(-1)
  assert same.sum() > 500 and np.abs(np.diff(table.price, axis=-1)[same]).max() < 1e-5


def test_learning_is_reproducible_and_its_options_are_checked():
  options = learned.Options("price", steps=3, profiles=16, nodes=8, values=2)
  one, two = (learning.learn(OPTIMUM, MARKET.distributions, None, options)[0] for _ in range(2))
  bids = market_lib.sample_values(MARKET, np.random.default_rng(4), 20)
  np.testing.assert_array_equal(one(bids).price, two(bids).price)
  with pytest.raises(ValueError, match="form is 'menu'; allowed: price, critical, rate"):
    learned.Options("menu")
  with pytest.raises(ValueError, match="nodes is 2; it must be at least 3"):
    learned.Options(nodes=2)


def test_the_binary_reports_what_was_learned(tmp_path):
  options = [learned.Options("price", steps=3, profiles=16, nodes=8, values=2)]
  sizes = audit.Sizes(regret_profiles=20, identity_profiles=5, chunk=100, block=10)
  built, extra = auction.build(MARKET, ["myerson"], learned=options)
  report = auction.evaluate(MARKET, built, 100, sizes=sizes, extra=extra)
  figures = report["mechanisms"]
  assert set(figures["learned_price"]) - set(figures["myerson"]) == set(auction.LEARNED_COLUMNS)
  text = auction.table(report)
  assert "learned_price" in text and "payment_correlation" in text
  assert figures["learned_price"]["welfare"] == figures["myerson"]["welfare"]
  drawn = auction_plots.draw(MARKET, built, report, str(tmp_path))
  assert [name for _, name in drawn] == ["curves.png", "scatter.png", "revenue.png"]
  assert all((tmp_path / name).stat().st_size > 5000 for _, name in drawn)
  del built["learned_price"]
  assert "payment_mae" not in auction.table(auction.evaluate(MARKET, built, 100, sizes=sizes))
  with pytest.raises(ValueError, match="--learned: 'menu': must be of price, critical, rate"):
    auction.check(["myerson"], None, None, ["menu"])


def test_training_draws_other_values_than_the_audits_of_its_seed():
  first = [np.random.default_rng(seed).random() for seed in (5, [5, 1], [5, learning.STREAM])]
  assert len(set(first)) == 3
