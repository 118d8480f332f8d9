"""EGA as a system: legal lists, one answer however it is asked, bids ignored where they must be, exact pivot prices."""

import dataclasses

import jax
import numpy as np
import pytest

import tiny_run
from ega_jax.auction.bidding import lognormal_virtual_bid
from ega_jax.evaluation import payments
from ega_jax.stages import recipe
from ega_jax.systems import distinct, generation, pricing
from ega_jax.systems.creatives import choose_creatives
from ega_jax.systems.ega import Options
from ega_jax.systems.payment import PivotPayment, shown_ads
from ega_jax.systems.probabilities import shown_probabilities

LENGTH = 4


def _system(**options):
  stage = "policy_bid_free" if options.get("bid_free") else "policy"
  params = tiny_run.trained()[1][stage]
  return recipe.ega_system(tiny_run.config(), tiny_run.models(), params, Options(**options))


def _batch():
  batch = tiny_run.requests_of_test()
  return batch, batch["bid"][:, None]


def _sweep_of(system, batch, slate, num_nodes=7):
  """Returns (ads i32[B, 4], table) of the shown ads of a slate over absolute nodes, the first 0."""
  items = slate.items[:, 0]
  ads = np.where(np.take_along_axis(batch["is_ad"], items, 1), items, -1)
  nodes = payments.absolute_nodes(batch, ads, num_nodes)
  return ads, payments.sweep(system, batch, batch["bid"], ads, nodes)


@pytest.mark.parametrize("options", [{}, {"bid_free": True}, {"virtual": 0.3}, {"virtual": 1.0}])
def test_lists_are_legal_and_repeatable_and_creatives_are_the_pois_own(options):
  system, (batch, bids) = _system(**options), _batch()
  slate = system.allocate(batch, bids)
  tiny_run.assert_legal(slate.items, batch, LENGTH)
  poi = np.take_along_axis(batch["candidates"], slate.items[:, 0], 1)
  np.testing.assert_array_equal(np.asarray(system.params["catalog"].creative_poi)[slate.creatives[:, 0]], poi)
  assert ((slate.click_probability > 0) & (slate.click_probability < 1)).all()
  again = system.allocate(batch, bids)
  for name in ("items", "creatives", "click_probability"):
    np.testing.assert_array_equal(getattr(again, name), getattr(slate, name))


@pytest.mark.parametrize("bid_free", [False, True])
def test_a_sweep_is_the_allocation_of_each_profile(bid_free):
  system, (batch, bids) = _system(bid_free=bid_free), _batch()
  ads, table = _sweep_of(system, batch, system.allocate(batch, bids))
  rows = np.arange(len(ads))
  column = (ads >= 0).argmax(1)  # one ad of every request
  assert (ads[rows, column] >= 0).sum() >= 2
  for node in (0, 3, 6):
    changed = batch["bid"].copy()
    own = ads[rows, column]
    changed[rows[own >= 0], own[own >= 0]] = table.nodes[rows, column, node][own >= 0]
    alone = system.allocate(batch, changed[:, None])
    for name in ("items", "creatives", "click_probability"):
      swept = getattr(table.payload, name)[rows, column, node][own >= 0]
      np.testing.assert_allclose(swept, getattr(alone, name)[own >= 0, 0], rtol=1e-4, err_msg=f"{name} at node {node}")


def test_bid_free_lists_ignore_bids_and_others_do_not():
  batch, bids = _batch()
  system = _system(bid_free=True)
  items = lambda system, bids: np.asarray(system.propose(batch, bids)[0].items)
  np.testing.assert_array_equal(items(system, bids), items(system, 100 * bids[:, :, ::-1]))
  moved = np.where(batch["is_ad"], np.random.default_rng(0).lognormal(size=batch["bid"].shape) * 20, 0)[:, None]
  assert (items(_system(), bids) != items(_system(), moved)).any()


def test_virtual_bids_over_bid_free_lists_never_lower_truthful_revenue():
  """With exactly truthful payments revenue is E[sum phi x] (Myerson 1981); paired, profile by profile, in model."""
  (batch, _), trained = _batch(), tiny_run.trained()[1]["policy_bid_free"]
  rng, shape = np.random.default_rng(0), (len(batch["bid"]), 16, batch["bid"].shape[1])
  mu = batch["value_mu"][:, None]
  bids = np.where(batch["is_ad"][:, None], np.exp(mu + 0.6 * rng.normal(size=shape)), 0.0).astype(np.float32)
  phi = np.asarray(lognormal_virtual_bid(bids, mu, 0.6))
  params = generation.at_slot_price(trained, 0.0)
  params = {**params, "market": {**params["market"], "organic_weight": np.float32(0)}}
  revenue = []
  for virtual in (0.0, 1.0):
    options = Options(bid_free=True, virtual=virtual)
    slate = recipe.ega_system(tiny_run.config(), tiny_run.models(), params, options).allocate(batch, bids)
    own = np.take_along_axis(phi, slate.items, -1)
    ads = np.take_along_axis(np.broadcast_to(batch["is_ad"][:, None], shape), slate.items, -1)
    revenue.append((slate.click_probability * np.where(ads, own, 0.0)).sum(-1))
  gain = revenue[1] - revenue[0]
  assert gain.min() > -1e-4 and gain.mean() > 1e-3


def test_virtual_bids_change_what_is_shown():
  batch, bids = _batch()
  plain, virtual = (_system(virtual=virtual).allocate(batch, bids).items for virtual in (0.0, 1.0))
  assert (plain != virtual).any()


def test_vcg_over_bid_free_lists_is_truthful_and_individually_rational():
  system, (batch, bids) = _system(bid_free=True), _batch()
  rule, slate = PivotPayment(system), system.allocate(batch, bids)
  ads, table = _sweep_of(system, batch, slate, num_nodes=21)
  price = rule.own_bid_price(batch, batch["bid"], table)
  assert (price >= 0).all() and (price <= table.nodes + 1e-9).all()
  utility = lambda value: (value[..., None] - price) * table.x
  best, truth = [], []
  for node in range(table.nodes.shape[-1]):
    value = table.nodes[..., node]
    best.append(utility(value).max(-1))
    truth.append(utility(value)[..., node])
  regret = (np.stack(best) - np.stack(truth))[:, ads >= 0]
  assert regret.max() <= 1e-5 * max(table.nodes.max(), 1)
  shown = rule.price(batch, bids, slate)[:, 0]
  is_ad = ads >= 0
  assert (shown[~is_ad] == 0).all() and (shown >= 0).all()
  own = np.take_along_axis(batch["bid"], slate.items[:, 0], 1)
  assert (shown <= own + 1e-6).all()


def test_the_learned_price_is_the_same_on_slates_and_on_curves():
  finals = tiny_run.trained()[1]
  system, (batch, bids) = _system(), _batch()
  rule = recipe.learned_payment(tiny_run.config(), system, "price", finals["payment"])
  slate = system.allocate(batch, bids)
  price = rule.price(batch, bids, slate)[:, 0]
  own = np.take_along_axis(batch["bid"], slate.items[:, 0], 1)
  ads = np.where(np.take_along_axis(batch["is_ad"], slate.items[:, 0], 1), slate.items[:, 0], -1)
  assert (price[ads < 0] == 0).all() and (price >= 0).all() and (price <= own + 1e-6).all() and (price > 0).any()
  nodes = np.stack([np.zeros_like(own), own], -1).astype(np.float64)
  table = payments.sweep(system, batch, batch["bid"], ads, nodes)
  curve = rule.own_bid_price(batch, batch["bid"], table)[..., 1]
  np.testing.assert_allclose(np.where(ads >= 0, curve, 0), price, rtol=1e-4, atol=1e-6)


def test_a_table_with_the_fixed_bids_saves_the_sweep(monkeypatch):
  system, (batch, bids) = _system(), _batch()
  ads, plain = _sweep_of(system, batch, system.allocate(batch, bids), num_nodes=9)
  more = np.sort(np.concatenate([plain.nodes, plain.nodes[..., 1:] * 1.3], -1), -1)
  table = payments.sweep(system, batch, batch["bid"], ads, more)
  inputs = lambda table: pricing.price_inputs(system, batch, batch["bid"], ads, table.x, 9, 0.6, table)
  swept = inputs(dataclasses.replace(table, nodes=table.nodes + 1.0))  # holds none of them
  np.testing.assert_allclose(swept.curve, plain.x, rtol=1e-5)
  monkeypatch.setattr(type(system), "sweep", None)
  np.testing.assert_allclose(inputs(table).curve, swept.curve, rtol=1e-5)
  np.testing.assert_allclose(inputs(table).nodes * system.params["market"]["bid_scale"], plain.nodes, rtol=1e-5)


def test_the_papers_inputs_hold_z_theta_and_not_the_own_bid():
  system, (batch, bids) = _system(), _batch()
  ads, table = _sweep_of(system, batch, system.allocate(batch, bids))
  found = pricing.rate_inputs(system, batch, batch["bid"], ads, table.nodes, table.payload)
  at_own = lambda leaf: np.take_along_axis(np.asarray(leaf), np.asarray(found.slot)[..., None], -1)[..., 0]
  shown = table.x > 0
  assert shown.any() and (at_own(found.bids)[shown] == 0).all() and (np.asarray(found.bids) >= 0).all()
  own = at_own(found.probability)[shown]
  assert ((own > 0) & (own <= table.x[shown] * (1 + 1e-5))).all() and (own < 0.999 * table.x[shown]).any()


@pytest.mark.parametrize("virtual", [0.0, 0.4])
def test_the_papers_inputs_weigh_tokens_as_the_system_that_is_served(virtual):
  (batch, bids), system = _batch(), _system(virtual=virtual)
  slate = system.allocate(batch, bids)
  items = np.asarray(slate.items)[:, 0]
  ads, shown = shown_ads(batch, slate, 0)
  own = np.take_along_axis(batch["bid"], np.maximum(ads, 0), 1)[..., None]
  found = pricing.rate_inputs(system, batch, batch["bid"], ads, own, shown)
  expected = shown_probabilities(system, batch, bids, slate) * np.asarray(slate.click_probability)[:, 0]
  expected = np.where(items >= 0, expected, 0.0)
  for b, k in np.argwhere(ads >= 0):
    np.testing.assert_allclose(np.asarray(found.probability)[b, k, 0], expected[b], rtol=1e-4)


def test_allocation_probabilities_of_all_first_items_sum_to_one():
  system, (batch, bids) = _system(), _batch()
  slate = system.allocate(batch, bids)
  z = shown_probabilities(system, batch, bids, slate)
  assert ((z > 0) & (z <= 1)).all()
  count = batch["candidates"].shape[1]
  total = np.zeros(len(z))
  for first in range(count):
    items = np.array(slate.items)
    items[:, 0, 0] = first
    one = shown_probabilities(system, batch, bids, type(slate)(items, slate.creatives, slate.click_probability))
    total += one[:, 0]
  np.testing.assert_allclose(total, 1, rtol=1e-4)  # illegal and absent ones have probability 0


def test_lists_are_scored_once_and_as_one_by_one(monkeypatch):
  batch, _ = _batch()
  rng = np.random.default_rng(0)
  lists = np.stack([np.stack([rng.permutation(14)[:LENGTH] for _ in range(5)]) for _ in range(8)]).astype(np.int32)
  lists = np.concatenate([lists, lists[:, ::-1]], 1)
  params = tiny_run.trained()[1]["policy"]
  creative_of = np.asarray(params["catalog"].poi_creatives)[np.maximum(batch["candidates"], 0), 0]
  clicks, scored, score = distinct.ListClicks(tiny_run.models(), params), [], distinct.score_lists

  def counted(models, params, request, items, creatives):
    scored.append((np.asarray(items)[..., 0] >= 0).sum(1).tolist())
    return score(models, params, request, items, creatives)

  monkeypatch.setattr(distinct, "score_lists", counted)
  together = clicks(batch, lists[:, :6], creative_of)
  together = np.concatenate([together, clicks(batch, lists[:, 4:], creative_of)[:, 2:]], 1)
  assert scored == [[5] * 8]  # the last five are the first, backwards
  again = clicks({name: column[::-1] for name, column in batch.items()}, lists[::-1], creative_of[::-1])
  np.testing.assert_array_equal(again[::-1], together)
  assert len(scored) == 1  # a request is known wherever it stands
  other = creative_of.copy()
  other[0] = np.asarray(params["catalog"].poi_creatives)[np.maximum(batch["candidates"][0], 0), 1]
  clicks(batch, lists, other)
  assert scored[1] == [5] + [0] * 7  # other creatives are another question
  for j in range(10):
    one = distinct.ListClicks(tiny_run.models(), params)(batch, lists[:, j : j + 1], creative_of)[:, 0]
    np.testing.assert_allclose(together[:, j], one, rtol=1e-5)


def test_blocks_of_lists_are_scored_for_their_own_request(monkeypatch):
  batch, _ = _batch()
  rng = np.random.default_rng(1)
  lists = np.stack([np.stack([rng.permutation(14)[:LENGTH] for _ in range(7)]) for _ in range(8)]).astype(np.int32)
  for row in range(8):
    lists[row, row % 7 :] = lists[row, row % 7]  # one to seven distinct lists: from one block to three
  params = tiny_run.trained()[1]["policy"]
  creative_of = np.asarray(params["catalog"].poi_creatives)[np.maximum(batch["candidates"], 0), 0]
  whole = distinct.ListClicks(tiny_run.models(), params)(batch, lists, creative_of)
  monkeypatch.setattr(distinct, "BLOCK", 3)
  found = distinct.ListClicks(tiny_run.models(), params)(batch, lists, creative_of)
  np.testing.assert_allclose(found, whole, rtol=1e-5)
  assert np.ptp(whole[:, 0], axis=0).min() > 1e-4  # requests differ


def test_scored_lists_are_held_within_their_bound():
  batch, _ = _batch()
  params = tiny_run.trained()[1]["policy"]
  creative_of = np.asarray(params["catalog"].poi_creatives)[np.maximum(batch["candidates"], 0), 0]
  lists = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (8, 1, LENGTH))
  one = 8 + 12 * LENGTH  # bytes of a hash, the items and creatives of a list, its clicks
  clicks = distinct.ListClicks(tiny_run.models(), params, limit=3 * one)
  found = clicks(batch, lists, creative_of)
  assert clicks.size == 3 * one and len(clicks.requests) == 3
  np.testing.assert_array_equal(clicks(batch, lists, creative_of), found)


def test_creatives_are_the_most_probable_own_chain():
  params, models = tiny_run.trained()[1]["policy"], tiny_run.models()
  states = jax.random.normal(jax.random.key(1), (6, models.generator.config.width))
  poi = np.array([0, 5, 9, -1, 40, 77], np.int32)
  chosen = np.asarray(choose_creatives(models, params, states, poi))
  assert chosen[3] == -1
  read = jax.jit(lambda state, codes: generation.apply(
    models.generator, params["generator"], "creative_logits", state[None], codes[None]
  )[0])  # fmt: skip
  for state, one, creative in zip(states, poi, chosen, strict=True):
    best, found = -np.inf, -1
    for own in np.asarray(params["catalog"].poi_creatives)[one] if one >= 0 else ():
      if own < 0:
        continue
      codes = params["ids"].creative[own]
      logits = np.asarray(read(state, codes))
      log_p = sum(float(row[code] - np.logaddexp.reduce(row)) for row, code in zip(logits, codes, strict=True))
      if log_p > best + 1e-6:
        best, found = log_p, own
    assert creative == found


@pytest.mark.parametrize("options", [{}, {"bid_free": True, "virtual": 0.2}, {"virtual": 0.2}])
def test_vcg_over_a_range_is_refused_where_it_would_not_be_truthful(options):
  with pytest.raises(ValueError, match="vcg_range of .*allowed: bid_free=True, virtual=0"):
    PivotPayment(_system(**options))
