"""The audit on toy systems with known answers: VCG over a range is truthful, first price is anything but."""

import dataclasses
import functools

import numpy as np
import pytest

import oracles_evaluation as toy
from ega_jax import types
from ega_jax.auction import metrics
from ega_jax.evaluation import audit, audit_views, equilibrium, market, payments, systems

OPTIONS = audit.AuditOptions(num_requests=12, num_unshown=10, num_nodes=31, refinements=8)


class Backwards(toy.RankByBid):
  """Ranks by the least bid: every curve falls, and no payment is truthful."""

  name = "backwards"

  def allocate(self, batch, bids):
    return super().allocate(batch, 1 / (0.1 + np.asarray(bids)))


@functools.cache
def audited(name):
  """Returns (world, system, rule, audit, figures) of one toy."""
  world = toy.ToyWorld(num_requests=12)
  affine = toy.AffineMaximiser(world, num_lists=30)
  system, rule = {
    "vcg": (affine, toy.PivotPayment(affine)),
    "first_price": (affine, payments.FirstPrice()),
    "myerson": (affine, payments.myerson(affine)),
    "gsp": (toy.RankByBid(world), payments.slot_threshold(toy.RankByBid(world))),
    "backwards": (Backwards(world), payments.myerson(Backwards(world))),
  }[name]
  found = audit.audit_system(system, rule, world.columns, world, OPTIONS)
  return world, system, rule, found, audit.audit_figures(found, OPTIONS)


def myerson_revenue(name):
  """Returns the figures of one toy under the Myerson integral of its allocation."""
  return market.summarise(audit_views.myerson_totals(audited(name)[3]))


def as_mechanism(system, rule, batch):
  """Returns the system with its rule as a function of bids f[B, G, C] -> Outcome over candidates."""

  def mechanism(bids):
    slate = system.allocate(batch, bids)
    x, price = np.zeros(bids.shape), np.zeros(bids.shape)
    np.put_along_axis(x, slate.items, slate.click_probability, -1)
    np.put_along_axis(price, slate.items, rule.price(batch, bids, slate), -1)
    ads = np.asarray(batch["is_ad"])[:, None]
    return types.Outcome(np.where(ads, x, 0.0), np.where(ads, price, 0.0))

  return mechanism


def test_vcg_over_a_range_is_truthful_in_its_own_click_model():
  figures = audited("vcg")[-1]
  assert figures["model/regret_max"] <= 1e-9 and figures["model/psi"] <= 1e-9
  assert figures["model/i_sic"] == pytest.approx(1, abs=0.01)
  assert figures["falling_share"] == 0 and figures["least_regret"] == 0
  assert figures["ir_violations"] == 0 and figures["least_price"] >= 0
  # Its belief ignores neighbours; under the world's clicks that is regret.
  assert figures["true/regret_max"] > 1e-4


def test_first_price_is_not():
  figures = audited("first_price")[-1]
  assert figures["model/i_sic"] == pytest.approx(0, abs=0.05)
  assert figures["model/regret_per_payment"] > 0.2 and figures["least_margin"] == 0
  assert figures["model/rpm_own"] > 1.5 * myerson_revenue("first_price")["model/rpm"]


def test_myerson_integral_is_vcg_for_a_maximiser():
  vcg, own = audited("vcg")[-1], audited("myerson")[-1]
  assert own["model/regret_max"] <= 1e-9
  assert own["model/rpm_own"] == pytest.approx(myerson_revenue("myerson")["model/rpm"], rel=1e-12)
  assert own["model/rpm_own"] == pytest.approx(vcg["model/rpm_own"], rel=0.02)
  assert vcg["model/payment_identity_residual"] < 0.01


def test_gsp_is_the_next_score_on_a_ranking():
  world, system, _, found, figures = audited("gsp")
  price = np.take_along_axis(found["price"], found["own"][..., None], -1)[..., 0]
  errors = []
  for row, request in enumerate(found["row"]):
    quality, bid = world.quality[request], world.columns["bid"][request]
    slate = system.allocate(systems.take(world.columns, [request]), bid[None, None])
    rest = [i for i in np.flatnonzero(world.columns["is_ad"][request]) if i not in slate.items[0, 0]]
    organic = [i for i in range(world.num_candidates) if not world.columns["is_ad"][request, i]]
    for slot, item in enumerate(slate.items[0, 0]):
      if not world.columns["is_ad"][request, item]:
        continue
      above = [i for i in slate.items[0, 0][:slot] if i in organic]
      next_up = list(slate.items[0, 0][slot + 1 :]) + rest
      scores = [bid[i] * quality[i] for i in next_up if i not in organic] + [0.5 * quality[organic[len(above)]]]
      errors.append(price[row, slot] - max(scores) / quality[item])
  assert len(errors) > 10 and np.mean(errors) < 0.03 and np.min(errors) > -0.25  # the price lies on a node
  assert figures["model/regret_per_payment"] > 0.01 and figures["ir_violations"] == 0


def test_falling_curves_are_seen_and_cost_regret():
  figures = audited("backwards")[-1]
  assert figures["falling_share_shown"] == 1 and figures["fall_depth"] > 0.5
  assert figures["least_regret"] > 1e-3


def test_regret_is_that_of_a_loop_over_the_nodes():
  world, system, rule, found, figures = audited("first_price")
  lost = []
  for row, ad in zip(*np.nonzero(found["shown"]), strict=True):
    batch = systems.take(world.columns, found["row"][row : row + 1])
    utility = []
    for bid in np.append(found["nodes"][row, ad], found["value"][row, ad]):
      bids = systems.truthful(batch).astype(np.float64)
      bids[0, 0, found["ads"][row, ad]] = bid
      slate = system.allocate(batch, bids)
      at = slate.items[0, 0] == found["ads"][row, ad]
      x = (slate.click_probability[0, 0] * at).sum()
      utility.append((found["value"][row, ad] - bid) * x)
    lost.append(max(utility) - utility[-1])
  assert figures["model/regret"] == pytest.approx(np.mean(lost))
  assert figures["model/regret_max"] == pytest.approx(np.max(lost))


def test_the_standard_error_of_a_regret_is_its_spread_over_samples_of_requests():
  rng = np.random.default_rng(0)

  def sample():  # ads of one request share what it adds
    where = rng.random((200, 4)) < 0.5
    return rng.normal(size=(200, 1)) + 0.3 * rng.normal(size=(200, 4)), where

  means, errors = zip(*((values[where].mean(), audit._standard_error(values, where)) for values, where in
                        (sample() for _ in range(400))), strict=True)  # fmt: skip
  np.testing.assert_allclose(np.mean(errors), np.std(means), rtol=0.1)
  assert audit._standard_error(np.ones((1, 2)), np.ones((1, 2), bool)) == 0.0


@pytest.mark.parametrize("name", ["vcg", "first_price"])
def test_psi_and_i_sic_agree_with_the_auction_metrics(name):
  world, system, rule, found, figures = audited(name)
  mechanism = as_mechanism(system, rule, world.columns)
  values = world.columns["bid"].astype(np.float64)
  floor = 1e-3 * np.median(found["value"][found["ads"] >= 0])
  literal, ratio = metrics.psi(mechanism, values, floor=floor)
  assert figures["model/psi"] == pytest.approx(literal, rel=1e-6, abs=1e-9)
  assert figures["model/i_sic"] == pytest.approx(metrics.i_sic(mechanism, values), abs=1e-6)


def test_audited_revenue_is_the_evaluation_s():
  for name in ("vcg", "first_price", "myerson"):
    world, system, rule, _, figures = audited(name)
    summary = market.summarise(systems.evaluate_system(system, rule, world.columns, world))
    tolerance = 0.03 if name == "myerson" else 1e-6  # its integral lies on nodes, which the audit refines
    assert figures["model/rpm_own"] == pytest.approx(summary["model/rpm"], rel=tolerance)
    assert figures["true/rpm_own"] == pytest.approx(summary["true/rpm"], rel=tolerance)


@pytest.mark.parametrize("chunk_size", [1, 5, 12, 64])
def test_requests_are_priced_with_their_like_and_for_the_same(chunk_size):
  world, seen = toy.ToyWorld(num_requests=12), []
  system = toy.RankByBid(world)

  class Recorded(toy.PivotPayment):
    def price(self, batch, bids, slate):
      items = np.asarray(slate.items)
      ads = np.take_along_axis(batch["is_ad"], np.maximum(items[:, 0], 0), 1) & (items[:, 0] >= 0)
      np.testing.assert_array_equal(items, system.allocate(batch, bids).items)
      seen.append(ads.sum(1))
      return np.asarray(batch["row"])[:, None, None] + 0.1 * np.arange(items.shape[2]) + 0 * bids[:, :, :1]

  rule = Recorded(toy.AffineMaximiser(world))
  found = systems.evaluate_system(system, rule, world.columns, world, shading=0.9, chunk_size=chunk_size)
  shown = np.concatenate(seen)
  assert (np.diff(shown) >= 0).all() and shown.min() < shown.max()
  for row in range(12):
    one = systems.evaluate_system(system, rule, systems.take(world.columns, [row]), world, shading=0.9, chunk_size=1)
    assert found["true/revenue"][row] == pytest.approx(one["true/revenue"][0])


def test_weights_stand_for_all_ads():
  rng = np.random.default_rng(0)
  is_ad = np.arange(9) >= 3
  items = np.array([[4, 0, 7], [0, 1, -1]])
  ads, weight = audit.audited_ads(items, np.stack([is_ad] * 2), np.ones((2, 9), bool), 2, rng.random((2, 9)))
  np.testing.assert_array_equal(ads[:, :3], [[4, -1, 7], [-1, -1, -1]])
  np.testing.assert_allclose(weight.sum(1), [6, 6])
  assert set(ads[0, 3:]) <= {3, 5, 6, 8} and len(set(ads[0, 3:])) == 2


@pytest.mark.parametrize("requests_per_call", [1, 5, 12])
def test_requests_are_audited_with_their_like_and_for_the_same(requests_per_call):
  world, system, rule, found, _ = audited("vcg")
  options, seen = dataclasses.replace(OPTIONS, requests_per_call=requests_per_call, num_unshown=2), {}

  class Recorded(type(rule)):
    def price(self, batch, bids, slate):
      items = np.asarray(system.allocate(batch, systems.truthful(batch)).items)[:, 0]
      ads = np.take_along_axis(batch["is_ad"], np.maximum(items, 0), 1) & (items >= 0)
      seen[tuple(batch["row"])] = ads.sum(1)
      return super().price(batch, bids, slate)

  again = audit.audit_system(system, Recorded(system), world.columns, world, options)
  whole = audit.audit_system(system, rule, world.columns, world, dataclasses.replace(options, requests_per_call=3))
  shown = np.concatenate(list(seen.values()))
  assert (np.diff(shown) >= 0).all() and np.ptp(shown) > 0
  np.testing.assert_array_equal(again["row"], world.columns["row"])
  for name in whole:
    np.testing.assert_allclose(again[name], whole[name])


def test_a_system_s_own_sweep_is_used_and_gives_the_same_audit():
  world, system, rule, found, _ = audited("vcg")

  class Fast:
    name = "fast"
    allocate = system.allocate
    calls = 0

    def sweep(self, batch, bids, ads, nodes):
      self.calls += 1
      table = payments.sweep(system, batch, bids, ads, nodes)
      return table.payload

  fast = Fast()
  again = audit.audit_system(fast, rule, world.columns, world, OPTIONS)
  assert fast.calls > 0
  for name in found:
    np.testing.assert_allclose(again[name], found[name])


def test_report_sections():
  found = audited("vcg")[3]
  curves = audit_views.example_curves(found, 2)
  assert len(curves) == 2 and all(np.all(np.diff(curve["x"]) >= 0) for curve in curves)
  scatter = audit_views.payment_scatter(found)
  assert np.corrcoef(scatter["own"], scatter["myerson"])[0, 1] > 0.99


@pytest.mark.parametrize("name", ["vcg", "gsp"])
def test_totals_under_the_integral_are_sums_over_the_shown_ads(name):
  *_, found, _ = audited(name)
  totals = audit_views.myerson_totals(found)
  assert not found["shown"].all()
  for evaluator in ("model", "true"):
    for request, revenue in enumerate(totals[f"{evaluator}/revenue"]):
      own = [(ad, node) for ad, node in enumerate(found["own"][request]) if found["shown"][request, ad]]
      paid = [found["myerson"][request, ad, node] * found[f"x/{evaluator}"][request, ad, node] for ad, node in own]
      assert revenue == pytest.approx(sum(paid)) and revenue > 0
    expected = 1000 * totals[f"{evaluator}/revenue"].sum() / found["slots"].sum()
    assert market.summarise(totals)[f"{evaluator}/rpm"] == pytest.approx(expected)


SHADING = equilibrium.EquilibriumOptions(num_requests=40, num_unshown=4)


def test_equilibrium_of_a_truthful_rule_is_truth():
  world = toy.ToyWorld(num_requests=40)
  affine = toy.AffineMaximiser(world, num_lists=30)
  for rule in (toy.PivotPayment(affine), payments.myerson(affine)):
    found = equilibrium.shading_equilibrium(lambda g, rule=rule: (affine, rule), world.columns, options=SHADING)
    assert found.converged and found.multiplier == 1.0 and found.gain < 0.01


def test_equilibrium_of_first_price_shades():
  world = toy.ToyWorld(num_requests=40)
  affine = toy.AffineMaximiser(world, num_lists=30)
  found = equilibrium.shading_equilibrium(lambda g: (affine, payments.FirstPrice()), world.columns, options=SHADING)
  assert found.path[1] < 0.85
  if found.converged:
    assert 0.3 <= found.multiplier < 0.8


def test_deviation_utility_by_a_loop():
  world = toy.ToyWorld(num_requests=5)
  system = toy.RankByBid(world)
  # More deviators than there are: all of them. Two requests a call: the last call is half padding.
  options = equilibrium.EquilibriumOptions(num_requests=5, num_unshown=9, requests_per_call=2)
  found = equilibrium.deviation_utilities(
    system, payments.FirstPrice(), world.columns, 0.8, [0.5, 1.1], world, options
  )
  expected = []
  edges = world.columns["value_mu"] + 0.6 * np.array([0.0, 0.6744898, 1.2815516])[:, None, None]  # of .5, .75, .9
  for multiplier in (0.5, 1.1):
    total = []
    for row in range(5):
      batch = systems.take(world.columns, [row])
      for ad in np.flatnonzero(batch["is_ad"][0]):
        bids = 0.8 * systems.truthful(batch).astype(np.float64)
        value = float(batch["bid"][0, ad])
        bids[0, 0, ad] = multiplier * value
        slate = system.allocate(batch, bids)
        poi = world.click_probabilities(np.array([row]), slate.items, slate.creatives)[0]
        utility = (value - multiplier * value) * (poi * (slate.items == ad)).sum()
        place = sum(np.log(value) >= edge[row, ad] for edge in edges)
        total.append(np.where(np.arange(4) == place, utility, 0.0))
    expected.append(np.mean(total, 0))
  assert (np.array(expected) != 0).all(0).sum() >= 3  # classes with a shown ad
  np.testing.assert_allclose(found, np.transpose(expected), rtol=1e-6)


class HighestBid:
  """One slot for the highest bid, at click probability .2."""

  name = "highest_bid"

  def allocate(self, batch, bids):
    items = np.asarray(bids).argmax(-1)[..., None].astype(np.int32)
    return types.Slate(items, np.zeros_like(items), np.full(items.shape, 0.2))


def test_first_price_between_two_uniform_bidders_shades_to_one_half():
  # The Bayes-Nash equilibrium is v / 2 (Vickrey 1961); an ad moves only for a gain of 1%, so g stops by .55.
  rng = np.random.default_rng(0)
  count = 2000
  columns = {
    "row": np.arange(count), "user": np.arange(count), "candidates": np.tile([0, 1], (count, 1)),
    "is_ad": np.ones((count, 2), bool), "bid": rng.random((count, 2)).astype(np.float32),
    "value_mu": np.full((count, 2), -1.0, np.float32),
  }  # fmt: skip
  options = equilibrium.EquilibriumOptions(num_requests=count, num_unshown=2, requests_per_call=500)
  found = equilibrium.shading_equilibrium(lambda g: (HighestBid(), payments.FirstPrice()), columns, options=options)
  assert found.converged and 0.45 <= found.multiplier <= 0.58
  assert found.gain_by_value < 0.02  # no class of values does better than v / 2
  second_price = payments.slot_threshold(HighestBid(), num_nodes=100)
  found = equilibrium.shading_equilibrium(lambda g: (HighestBid(), second_price), columns, options=options)
  assert found.converged and found.multiplier == 1.0 and found.gain_by_value < 1e-3


def test_one_multiple_for_every_value_is_no_equilibrium_of_first_price_between_lognormal_values():
  # The equilibrium bid E[max of the others' | below v] is nearly v for low values and far below it for high ones.
  rng = np.random.default_rng(0)
  count = 2000
  columns = {
    "row": np.arange(count), "user": np.arange(count), "candidates": np.tile([0, 1], (count, 1)),
    "is_ad": np.ones((count, 2), bool), "bid": np.exp(0.6 * rng.normal(size=(count, 2))).astype(np.float32),
    "value_mu": np.zeros((count, 2), np.float32),
  }  # fmt: skip
  options = equilibrium.EquilibriumOptions(num_requests=count, num_unshown=2, requests_per_call=500)
  found = equilibrium.shading_equilibrium(lambda g: (HighestBid(), payments.FirstPrice()), columns, options=options)
  assert found.gain < 0.01 and found.gain_by_value > 0.03
