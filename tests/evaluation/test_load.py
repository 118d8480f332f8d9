"""Equal ad load: a search on monotone knobs, honest about steps and unreachable targets."""

import dataclasses
import math
import types

import numpy as np
import pytest

import oracles_evaluation as toy
from ega_jax.evaluation import lineup, load, market, payments, systems
from ega_jax.systems import balance


@pytest.mark.parametrize("sign", [1, -1])
def test_bisection_finds_the_knob(sign):
  share = lambda knob: 1 / (1 + knob**sign)
  found = balance.equal_load(share, 0.3, 1e-3, 1e3, tolerance=1e-4, max_trials=40)
  assert found.met and found.knob == pytest.approx((0.7 / 0.3) ** sign, rel=1e-2)
  assert found.share == share(found.knob)
  linear = balance.equal_load(lambda knob: knob / 10, 0.3, -5, 10, scale="linear", tolerance=1e-3)
  assert linear.met and linear.knob == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize("answer", [0.5, 0.8, 1.3, 4.0])
def test_a_search_from_a_start_needs_few_trials(answer):
  share = lambda knob: 1 / (1 + (knob / answer) ** 1.5 * (0.7 / 0.3))
  found = balance.equal_load(share, 0.3, 1e-2, 1e4, tolerance=0.003, start=1.0)
  assert found.met and len(found.tried) <= 8
  assert len(found.tried) < len(balance.equal_load(share, 0.3, 1e-2, 1e4, tolerance=0.003).tried)


@pytest.mark.parametrize("start", [None, 1.0])
def test_a_rising_share_is_found_and_an_unreachable_one_gives_the_nearer_end(start):
  rising = balance.equal_load(lambda knob: knob / (1 + knob), 0.3, 1e-2, 1e4, start=start)
  assert rising.met and rising.knob == pytest.approx(3 / 7, rel=0.03)
  for target, end in ((0.05, 100), (0.95, 0.01)):
    found = balance.equal_load(lambda knob: 0.2 + 0.6 / (1 + knob), target, 0.01, 100, start=start)
    assert not found.met and found.knob == pytest.approx(end) and len(found.tried) <= 8


class Posted:
  """Shows as ads, in ten slots, the candidates that bid more than the knob; counts the requests it was asked about."""

  def __init__(self, knob=0.0, asked=None):
    self.knob, self.asked = knob, [] if asked is None else asked

  def with_knob(self, knob):
    return Posted(knob, self.asked)

  def allocate(self, batch, bids):
    self.asked.append(len(bids))
    ads = np.arange(10)
    return types.SimpleNamespace(items=np.where(np.asarray(bids)[:, 0, :10] > self.knob, ads, 10 + ads)[:, None])


def _requests(count, seed):
  rng = np.random.default_rng(seed)
  level = rng.normal(size=(count, 1))  # requests differ by more than their slots do
  bid = np.concatenate([np.exp(level + 0.3 * rng.normal(size=(count, 10))), np.zeros((count, 10))], 1)
  return {"bid": bid.astype(np.float32), "is_ad": np.broadcast_to(np.arange(20) < 10, bid.shape)}


def test_the_load_is_met_on_many_requests_for_few_more_trials():
  few, many = _requests(64, 0), _requests(1024, 1)
  share = lambda knob, some: balance.mean_ad_share(Posted(knob), some, 64)
  coarse = balance.balanced_knob(Posted(), few, 0.3, 64, 10)
  assert abs(share(coarse, few) - 0.3) <= 0.001 < 0.01 < abs(share(coarse, many) - 0.3)
  system, said = Posted(), []
  fine = balance.balanced_knob(system, few, 0.3, 64, 10, fine=many, say=said.append)
  assert abs(share(fine, many) - 0.3) <= 0.001
  trials = sum("on 1024 requests" in text for text in said)
  assert 2 <= trials <= 5 and len(system.asked) == len(said) + 15 * trials


def test_a_known_slope_saves_trials():
  share = lambda knob: 0.3 - 0.1 * (knob - 2.07)
  alone, known = (
    balance.equal_load(share, 0.3, -5, 5, tolerance=1e-4, scale="linear", start=1.0, slope=slope)
    for slope in (None, -0.08)
  )
  assert alone.met and known.met and len(known.tried) == 3 < len(alone.tried)
  assert known.slope == pytest.approx(-0.1)
  assert balance.equal_load(share, 0.407, -5, 5, scale="linear", start=1.0).slope is None


def test_a_step_is_reported_as_not_met():
  found = balance.equal_load(lambda knob: 0.2 if knob > 1 else 0.5, 0.3, 0.01, 100)
  assert not found.met and found.share == 0.2 and len(found.tried) == 24


def test_bad_brackets_are_refused():
  with pytest.raises(ValueError, match="low=0"):
    balance.equal_load(lambda knob: knob, 0.3, 0, 1)
  with pytest.raises(ValueError, match="scale='cubic'"):
    balance.equal_load(lambda knob: knob, 0.3, 0, 1, scale="cubic")


def test_a_system_reaches_the_load_of_another():
  world = toy.ToyWorld(num_requests=60)

  def figures(knob):
    totals = systems.evaluate_system(toy.RankByBid(world, knob), payments.Free(), world.columns)
    return market.summarise(totals)

  found = balance.equal_load(lambda knob: figures(knob)["ad_share"], 0.6, 0.01, 100, tolerance=0.01)
  assert found.met and math.isclose(figures(found.knob)["ad_share"], found.share)
  assert balance.mean_ad_share(toy.RankByBid(world, found.knob), world.columns, 20) == pytest.approx(found.share)
  points = load.frontier(figures, [4.0, 0.1, 1.0])
  assert [point["knob"] for point in points] == [4.0, 1.0, 0.1]
  assert points[0]["ad_share"] < points[1]["ad_share"] < points[2]["ad_share"]


def test_logged_share_leaves_exploration_out():
  logs = {
    "shown_item": np.array([[0, 2, -1], [1, 0, 2], [2, 1, 0]]),
    "explored": np.array([False, True, False]),
    "is_ad": np.array([[False, False, True]] * 3),
  }
  assert balance.logged_ad_share(logs) == pytest.approx(2 / 5)


class Priced(toy.RankByBid):
  """RankByBid as a system with a knob."""

  @property
  def knob(self):
    return self.organic_weight

  def with_knob(self, knob):
    return Priced(self.world, knob)


class Follows(payments.FirstPrice):
  """A rule that follows its system."""

  def __init__(self, system):
    self.system = system

  def on(self, system):
    return Follows(system)


def test_a_system_of_two_rows_is_balanced_once():
  world = toy.ToyWorld(num_requests=60)
  system = Priced(world, 1.0)
  one, two = (lineup.Entry(name, system, Follows(system), knob=(0.01, 100.0)) for name in ("GSP", "VCG"))
  equal = load.EqualLoad(world.columns, 0.5, 20, 4)
  one, two = equal.balanced(one), equal.balanced(two)
  assert one.system is two.system is one.rule.system is two.rule.system and one.system is not system
  other = equal.balanced(lineup.Entry("other", Priced(world, 1.0), Follows(system), knob=(0.01, 100.0)))
  assert other.system is not one.system


def test_the_load_is_set_anew_for_shaded_bids():
  world = toy.ToyWorld(num_requests=60)
  entry = lineup.Entry("rank", Priced(world, 1.0), payments.FirstPrice(), knob=(0.01, 100.0))
  entry = dataclasses.replace(entry, rule=Follows(entry.system))
  equal = load.EqualLoad(world.columns, 0.5, 20, 4)
  balanced = equal.balanced(entry)
  setting = equal.by_bids(balanced)
  share = lambda system, g: balance.mean_ad_share(system, world.columns, 20, g)
  assert abs(share(balanced.system, 1.0) - 0.5) <= 0.01
  assert setting(1.0) == (balanced.system, balanced.rule)
  system, rule = setting(0.5, finely=True)
  assert rule.system is system and setting(0.5, finely=True)[0] is system  # computed once
  assert abs(share(system, 0.5) - 0.5) <= 0.01 < abs(share(balanced.system, 0.5) - 0.5)
  some = systems.take(world.columns, np.arange(60)[::3])  # what a search over g looks at
  roughly = equal.by_bids(balanced)(0.5)[0]
  assert abs(balance.mean_ad_share(roughly, some, 20, 0.5) - 0.5) <= 0.025 < abs(share(balanced.system, 0.5) - 0.5)
  learned = dataclasses.replace(balanced, rule=payments.FirstPrice())  # has no `on`: it prices one allocation
  assert equal.by_bids(learned)(0.5) == (balanced.system, learned.rule)
  balanced.system.load_sees_bids = False
  assert equal.by_bids(balanced)(0.5) == (balanced.system, balanced.rule)
