"""Market figures by hand, and evaluation in chunks against one request at a time."""

import numpy as np
import pytest

import oracles_evaluation as toy
from ega_jax.decoding.slate import Objective
from ega_jax.evaluation import bootstrap, market, oracle, payments, systems
from ega_jax.systems import balance


def test_violations_of_individual_rationality_by_hand():
  items = np.array([[4, 0, -1, 2], [3, 5, 1, 6]])
  is_ad = np.array([[True, False, False, True], [True, True, False, True]])
  bid = np.array([[2.0, 9, 9, 0.0], [1, 3, 9, 4]])
  fair = np.array([[2.0, 0, 9, 0.0], [0.5, 3 * (1 + 1e-8), 0, 0]])
  np.testing.assert_array_equal(market.violations(items, is_ad, bid, fair), [0, 0])
  for place, price, expected in (((0, 0), 2.001, [1, 0]), ((0, 1), 0.1, [1, 0]), ((1, 3), -0.01, [0, 1]),
                                 ((0, 3), 1e-3, [1, 0]), ((0, 2), 50.0, [0, 0])):  # fmt: skip
    unfair = fair.copy()
    unfair[place] = price
    np.testing.assert_array_equal(market.violations(items, is_ad, bid, unfair), expected)


def test_figures_by_hand():
  items = np.array([[4, 0, -1], [3, 5, 1]])
  is_ad = np.array([[True, False, False], [True, True, False]])
  value = np.array([[2.0, 9, 9], [1, 3, 9]])
  price = np.array([[1.0, 9, 9], [0.5, 2, 9]])
  poi = np.array([[0.1, 0.2, 9], [0.3, 0.1, 0.4]])
  totals = market.layout_totals(items, is_ad)
  clicks = market.click_totals(items, is_ad, value, price, poi, creative=poi / 2, conversion=poi / 10)
  figures = market.summarise(totals | {f"true/{name}": total for name, total in clicks.items()})
  revenue = 0.1 * 1 + 0.3 * 0.5 + 0.1 * 2
  assert figures["true/rpm"] == pytest.approx(1000 * revenue / (3 * 2))
  assert figures["true/welfare"] == pytest.approx((0.1 * 2 + 0.3 * 1 + 0.1 * 3) / 2)
  assert figures["true/ctr_poi"] == pytest.approx(1.1 / 5)
  assert figures["true/ctr_poi_ads"] == pytest.approx(0.5 / 3)
  assert figures["true/ctr_poi_organic"] == pytest.approx(0.6 / 2)
  assert figures["true/ctr_img"] == pytest.approx(0.55 / 5)
  assert figures["true/clicks"] == pytest.approx(1.1 / 2)
  assert figures["true/conversions"] == pytest.approx(0.11 / 2)
  assert figures["true/price_per_click"] == pytest.approx(revenue / 0.5)
  assert figures["ad_share"] == pytest.approx(3 / 5)
  assert not any(name.startswith("model/") for name in figures)


def test_unknown_figures_are_refused():
  totals = market.layout_totals(np.array([[1]]), np.array([[True]]))
  with pytest.raises(ValueError, match="true/nonsense"):
    market.parts(totals, "true/nonsense")
  with pytest.raises(ValueError, match="true/revenue"):
    market.parts(totals, "true/rpm")


def test_evaluation_is_the_same_in_chunks_and_matches_a_loop():
  world = toy.ToyWorld()
  system, rule = toy.RankByBid(world), payments.FirstPrice()
  whole = systems.evaluate_system(system, rule, world.columns, world)
  chunked = systems.evaluate_system(system, rule, world.columns, world, chunk_size=7)
  for name in whole:
    np.testing.assert_array_equal(whole[name], chunked[name])
  revenue = 0.0
  slate = system.allocate(world.columns, systems.truthful(world.columns))
  for row in range(len(world.columns["row"])):
    shown = slate.items[row, 0]
    poi = world.click_probabilities(np.array([row]), shown[None], slate.creatives[row])[0][0]
    revenue += sum(poi[k] * world.columns["bid"][row, i] for k, i in enumerate(shown))
  assert whole["true/revenue"].sum() == pytest.approx(revenue)
  assert whole["true/revenue"].sum() == pytest.approx(whole["true/welfare"].sum(), rel=1e-6)  # first price


def test_shading_scales_bids_and_not_values():
  world = toy.ToyWorld()
  system = toy.RankByBid(world, organic_weight=0.0)  # nothing but ads: a common factor moves no list
  full = systems.evaluate_system(system, payments.FirstPrice(), world.columns, world)
  half = systems.evaluate_system(system, payments.FirstPrice(), world.columns, world, shading=0.5)
  np.testing.assert_allclose(half["true/revenue"], full["true/revenue"] / 2, rtol=1e-6)
  np.testing.assert_allclose(half["true/welfare"], full["true/welfare"], rtol=1e-6)


def test_another_reward_model_can_be_the_evaluator():
  world = toy.ToyWorld()
  second = lambda batch, slate: {"poi": 2 * slate.click_probability, "creative": slate.click_probability}
  system = toy.RankByBid(world)
  own = market.summarise(systems.evaluate_system(system, payments.Free(), world.columns))
  other = market.summarise(systems.evaluate_system(system, payments.Free(), world.columns, theta_model=second))
  assert other["model/clicks"] == pytest.approx(2 * own["model/clicks"])
  assert other["model/ctr_img"] == pytest.approx(own["model/ctr_poi"])
  assert "model/ctr_img" not in own and "true/clicks" not in own


def test_oracle_bounds_the_toys_and_is_legal():
  world = toy.ToyWorld(num_requests=12)
  best = oracle.Oracle(world, world.poi_creatives, world.list_length, objective=Objective(0.5), beam=8, pool=5)
  floor = oracle.PopularityFloor(world.popularity, world.poi_creatives, world.list_length)
  score = {}
  for system in (best, toy.RankByBid(world), floor):
    totals = systems.evaluate_system(system, payments.Free(), world.columns, world)
    score[system.name] = totals["true/welfare"] + 0.5 * totals["true/organic_clicks"]
  assert score["oracle"].mean() >= 1.02 * score["rank"].mean()
  assert (score["oracle"] >= score["rank"] - 1e-9).mean() > 0.9  # a beam: nearly always
  assert score["oracle"].mean() > 1.2 * score["popularity"].mean()
  for system in (best, floor):
    slate = system.allocate(world.columns, systems.truthful(world.columns))
    for row, shown in enumerate(slate.items[:, 0]):
      organic = [i for i in shown if not world.columns["is_ad"][row, i]]
      assert len(set(shown)) == len(shown) and organic == list(range(len(organic)))
      pois = world.columns["candidates"][row, shown]
      assert all(c in world.poi_creatives[p] for c, p in zip(slate.creatives[row, 0], pois, strict=True))


@pytest.mark.parametrize("price", [0.0, 0.08, -0.2, 0.4])
def test_oracle_with_a_full_beam_is_the_best_list(price):
  world = toy.ToyWorld(num_requests=3, num_ads=4, num_organic=2)
  best = oracle.Oracle(world, world.poi_creatives, 3, objective=Objective(0.5, price), beam=500, pool=4)
  totals = systems.evaluate_system(best, payments.Free(), world.columns, world)
  every = toy.AffineMaximiser(world, num_lists=120, organic_weight=0.5).lists
  legal = [list(y) for y in every if [i for i in y if i < 2] == list(range(sum(i < 2 for i in y)))]
  for row in range(3):
    pois = world.columns["candidates"][row]
    creatives = world.poi_creatives[pois, 0]
    scores = []
    for items in legal:
      poi = world.click_probabilities(np.array([row]), np.array([items]), creatives[items][None])[0][0]
      scores.append(toy.score_by_loop(items, poi, world.columns["bid"][row], world.columns["is_ad"][row], 0.5, price))
    found = totals["true/welfare"][row] + 0.5 * totals["true/organic_clicks"][row]
    found -= price * totals["ad_impressions"][row]
    assert found == pytest.approx(max(scores), rel=1e-6)


def test_the_oracle_shows_fewer_ads_the_more_their_slots_cost():
  world = toy.ToyWorld(num_requests=12, num_ads=5, num_organic=4)
  share = []
  for price in (-5.0, 0.0, 0.05, 0.15, 5.0):
    best = oracle.Oracle(world, world.poi_creatives, world.list_length, objective=Objective(0.5, price), beam=8)
    share.append(balance.mean_ad_share(best, world.columns, 12))
  assert all(np.diff(share) <= 0) and share[0] == 1 and share[-1] == 0 and len(set(share)) >= 4


@pytest.mark.parametrize("price", [0.0, 3.0])
def test_lists_longer_than_the_candidates_end_in_empty_slots(price):
  world = toy.ToyWorld(num_requests=2, num_ads=1, num_organic=1)
  best = oracle.Oracle(world, world.poi_creatives, 3, objective=Objective(1.0, price))
  for system in (best, oracle.PopularityFloor(world.popularity, world.poi_creatives, 3)):
    items = system.allocate(world.columns, systems.truthful(world.columns)).items[:, 0]
    assert (items[:, 2] == -1).all() and (np.sort(items[:, :2]) == [0, 1]).all()


def test_popularity_merges_ads_into_the_organic_order():
  popularity, creatives = np.array([1.0, 5, 3, 4, 2]), np.arange(10).reshape(5, 2)
  batch = {"candidates": np.array([[0, 1, 2, 3, 4, -1]]), "is_ad": np.array([[False, False, True, True, True, False]])}
  for weight, expected in ((1.0, [3, 2, 4, 0]), (2.5, [3, 2, 0, 1]), (9.0, [0, 1, 3, 2])):
    system = oracle.PopularityFloor(popularity, creatives, 4, organic_weight=weight)
    slate = system.allocate(batch, np.ones((1, 2, 6)))
    np.testing.assert_array_equal(slate.items, [[expected, expected]])
    np.testing.assert_array_equal(slate.creatives, 2 * slate.items)


@pytest.mark.parametrize("sign", [1, -1])
def test_virtual_surplus_is_the_mean_of_the_unclipped_myerson_integral(sign):
  """Over all ads, shown or not, and also where curves fall: integration by parts asks for no monotone curve."""
  world = toy.ToyWorld(num_requests=4000, users=4000)
  ranked = toy.RankByBid(world)
  ranked.allocate = lambda batch, bids: toy.RankByBid.allocate(ranked, batch, np.exp(sign * np.log(bids + 0.1)))
  totals = systems.evaluate_system(ranked, payments.Free(), world.columns, sigma=toy.SIGMA, chunk_size=4000)
  bids = systems.truthful(world.columns).astype(np.float64)[:, 0]
  ads = np.broadcast_to(np.flatnonzero(world.columns["is_ad"][0]), (4000, 5))
  own = np.take_along_axis(bids, ads, 1)
  nodes = own[..., None] * np.linspace(0, 1, 25)
  x = payments.sweep(ranked, world.columns, bids, ads, nodes, 4000).x
  integral = (own * x[..., -1] - (np.diff(nodes, axis=-1) * (x[..., 1:] + x[..., :-1]) / 2).sum(-1)).sum(-1)
  gap = totals["model/virtual_surplus"] - integral
  error = gap.std() / np.sqrt(len(gap))
  assert abs(gap.mean()) < 3 * error < 0.3 * abs(integral.mean())


def test_totals_per_user_give_the_same_figures_and_intervals():
  world = toy.ToyWorld()
  runs = [systems.evaluate_system(toy.RankByBid(world, knob), payments.FirstPrice(), world.columns, world)
          for knob in (0.3, 0.8)]  # fmt: skip
  kept = [market.by_user(totals) for totals in runs]
  assert len(kept[0]["user"]) == len(np.unique(runs[0]["user"])) < len(runs[0]["user"])
  assert market.summarise(kept[0]) == pytest.approx(market.summarise(runs[0]), rel=1e-12, nan_ok=True)
  differences = [bootstrap.paired_difference(*(market.parts(totals, "true/rpm") for totals in pair), pair[0]["user"])
                 for pair in (runs, kept)]  # fmt: skip
  for one, other in zip(*(vars(interval).values() for interval in differences), strict=True):
    assert one == pytest.approx(other, rel=1e-9)
