"""The price of an ad slot: the knob of the ad load in every system, a constant that keeps VCG over a range truthful."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_run
from ega_jax.baselines.cascade import Cascade
from ega_jax.evaluation import payments
from ega_jax.stages import recipe
from ega_jax.systems import balance, generation
from ega_jax.systems.ega import Options
from ega_jax.systems.payment import PivotPayment
from ega_jax.types import Request
from oracles_evaluation import score_by_loop

LENGTH = 4


def _ega(**options):
  stage = "policy_bid_free" if options.get("bid_free") else "policy"
  return recipe.ega_system(tiny_run.config(), tiny_run.models(), tiny_run.trained()[1][stage], Options(**options))


def _cascade(**settings):
  params = tiny_run.trained()[1]["ranker"]
  return Cascade("MCA", recipe.build_ranker(tiny_run.config()), params, LENGTH, models=tiny_run.models(), **settings)


SYSTEMS = {
  "EGA": _ega,
  "GR+R": lambda: _ega(bid_free=True),
  "MCA": _cascade,
  "MCA+R": lambda: _cascade(num_lists=12),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_knob_is_the_price_in_median_bids_and_nothing_else_moves(name):
  system = SYSTEMS[name]()
  market = {key: float(value) for key, value in system.params["market"].items()}
  assert system.knob == market["slot_price"] and system.objective.slot_price == pytest.approx(
    market["slot_price"] * market["bid_scale"]
  )
  moved = system.with_knob(2.5)
  assert moved.knob == 2.5 and moved.objective.slot_price == pytest.approx(2.5 * market["bid_scale"])
  assert moved.objective.organic_weight == pytest.approx(market["organic_weight"]) and type(moved) is type(system)
  assert {key: float(value) for key, value in system.params["market"].items()} == market
  before, after = ({**each.params, "market": None} for each in (system, moved))
  assert all(a is b for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))


def test_the_units_of_money_move_prices_with_bids():
  params = {"market": {"bid_scale": jnp.float32(4.0), "organic_weight": jnp.float32(3.0), "slot_price": 0.0}}
  objective = generation.objective(generation.at_slot_price(params, 0.5)["market"])
  assert tuple(map(float, objective)) == (3.0, 2.0) and float(params["market"]["slot_price"]) == 0.0


@pytest.mark.parametrize("name", SYSTEMS)
def test_ads_give_way_as_their_slots_cost_more(name):
  system, batch = SYSTEMS[name](), tiny_run.requests_of_test()
  shares = [balance.mean_ad_share(system.with_knob(price), batch, 8) for price in (-30.0, -0.5, 0.1, 0.5, 1.0, 30.0)]
  assert (np.diff(shares) <= 1e-6).all() and shares[0] > shares[-1] and len(set(shares)) >= 3, shares


def test_proposals_know_the_price_before_a_list_is_chosen():
  batch, shares = tiny_run.requests_of_test(), []
  for price in (-30.0, 0.0, 30.0):
    found, _, _ = _ega().with_knob(price).propose(batch, batch["bid"][:, None])
    items, index = np.asarray(found.items), np.asarray(found.index)[:, 0]
    lists = np.take_along_axis(items, index[..., None], 1)
    tiny_run.assert_legal(lists, batch, LENGTH)
    shares.append(np.take_along_axis(np.broadcast_to(batch["is_ad"][:, None], (*index.shape, 14)), lists, 2).mean())
  assert shares[0] >= shares[1] > shares[2]


@pytest.mark.parametrize("price", [-0.3, 0.0, 0.7])
def test_a_charge_is_the_price_of_a_slot_per_click_expected_of_the_ad(price):
  system, batch = _ega().with_knob(price), tiny_run.requests_of_test()
  request = jax.tree.map(jnp.asarray, Request.from_batch(batch))
  prepared = jax.jit(generation.prepare, static_argnums=0)(system.models, system.params, request)
  click = 1 / (1 + np.exp(-np.asarray(prepared.alone["poi"], np.float64).max(-1)))
  expected = np.where(prepared.table.is_ad, price * float(system.params["market"]["bid_scale"]) / click, 0.0)
  np.testing.assert_allclose(prepared.table.slot_charge, expected, rtol=1e-4)
  assert (prepared.table.slot_charge != 0).sum() == (batch["is_ad"].sum() if price else 0)
  without = {key: leaf for key, leaf in system.params.items() if key != "reward"}
  bare = jax.eval_shape(lambda params: generation.prepare(system.models, params, request), without)
  assert bare.table.slot_charge is None


@pytest.mark.parametrize("price", [-0.4, 0.2, 1.0])
def test_the_cascade_weighs_ads_net_of_their_slots(price):
  system, batch = _cascade().with_knob(price), tiny_run.requests_of_test()
  slate = system.allocate(batch, batch["bid"][:, None])
  weight, fee = map(float, system.objective)
  pctr = _pctr(system, batch)
  for b, (items, theta) in enumerate(zip(slate.items[:, 0], slate.click_probability[:, 0], strict=True)):
    is_ad, bid = batch["is_ad"][b], batch["bid"][b]
    worth = [score_by_loop([i], [pctr[b, i]], bid, is_ad, weight, fee) for i in range(len(bid))]
    np.testing.assert_allclose(theta, pctr[b, items], rtol=1e-5)
    taken = []
    for item in items:  # at every slot no other legal item is worth more
      organic = [i for i in range(len(bid)) if not is_ad[i] and batch["candidates"][b, i] >= 0 and i not in taken][:1]
      legal = [i for i in range(len(bid)) if is_ad[i] and i not in taken] + organic
      assert worth[item] == pytest.approx(max(worth[i] for i in legal), abs=1e-5)
      taken.append(item)


def _pctr(system, batch):
  """The cascade's click probability of every candidate, read from its own module."""
  request = jax.tree.map(jnp.asarray, Request.from_batch(batch))
  logits = jax.jit(lambda params, request: system.ranker.apply(
    {"params": params["ranker"]}, request, params["catalog"], method="click_logits"
  ))(system.params, request)  # fmt: skip
  return np.asarray(jax.nn.sigmoid(logits))


@pytest.mark.parametrize("price", [-0.4, 0.3])
def test_reranking_never_lowers_the_score_net_of_slots(price):
  batch, score = tiny_run.requests_of_test(), []
  for num_lists in (1, 12):
    system = _cascade(num_lists=num_lists).with_knob(price)
    slate = system.allocate(batch, batch["bid"][:, None])
    rows = zip(slate.items[:, 0], slate.click_probability[:, 0], batch["bid"], batch["is_ad"], strict=True)
    score.append(np.array([score_by_loop(*row, *map(float, system.objective)) for row in rows]))
  assert (score[1] >= score[0] - 1e-6).all() and (score[1] > score[0] + 1e-6).any()


@pytest.mark.parametrize("price", [-0.5, 0.3, 0.8])
def test_vcg_over_bid_free_lists_stays_truthful_at_a_price(price):
  batch = dict(tiny_run.requests_of_test())
  batch["bid"] = 12 * batch["bid"]  # so that ads are shown at every one of the prices
  system = _ega(bid_free=True).with_knob(price)
  bids = batch["bid"][:, None]
  rule, slate = PivotPayment(system), system.allocate(batch, bids)
  items = slate.items[:, 0]
  ads = np.where(np.take_along_axis(batch["is_ad"], items, 1), items, -1)
  assert (ads >= 0).sum() >= 4
  table = payments.sweep(system, batch, batch["bid"], ads, payments.absolute_nodes(batch, ads, 21))
  paid = rule.own_bid_price(batch, batch["bid"], table)
  assert (paid >= 0).all() and (paid <= table.nodes + 1e-9).all() and (paid > 0).any()
  regret = []
  for node in range(table.nodes.shape[-1]):
    utility = (table.nodes[..., node, None] - paid) * table.x
    regret.append(utility.max(-1) - utility[..., node])
  assert np.stack(regret)[:, ads >= 0].max() <= 1e-5 * max(table.nodes.max(), 1)
  shown = rule.price(batch, bids, slate)[:, 0]
  own = np.take_along_axis(batch["bid"], items, 1)
  assert (shown[ads < 0] == 0).all() and (shown >= 0).all() and (shown <= own + 1e-6).all()
  np.testing.assert_allclose(shown[ads >= 0], _pivots(system, batch, slate, ads)[ads >= 0], rtol=1e-3, atol=1e-4)


def _pivots(system, batch, slate, ads):
  """Returns f[B, K]: what the others lose per click by each shown ad, from all lists by loops."""
  found, _, theta = system.propose(batch, batch["bid"][:, None])
  weight, fee = map(float, system.objective)
  price = np.zeros(ads.shape)
  for b, k in np.argwhere(ads >= 0):
    rows = sorted(set(np.asarray(found.index)[b, 0][np.asarray(found.log_z)[b, 0] > -np.inf].tolist()))
    score = lambda bid, b=b, rows=rows: [
      score_by_loop(np.asarray(found.items)[b, u], np.asarray(theta)[b, u], bid, batch["is_ad"][b], weight, fee)
      for u in rows
    ]
    without = batch["bid"][b].copy()
    without[ads[b, k]] = 0.0
    click = float(slate.click_probability[b, 0, k])
    others = max(score(batch["bid"][b])) - float(batch["bid"][b, ads[b, k]]) * click
    price[b, k] = max(max(score(without)) - others, 0.0) / click
  return price
