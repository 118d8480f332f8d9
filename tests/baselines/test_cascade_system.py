"""The cascade and the list generator as systems on a trained run: legal lists, ad slots where they are promised."""

import numpy as np
import pytest

import tiny_run
from ega_jax.baselines.cascade import Cascade
from ega_jax.baselines.list_generation import ListGeneration
from ega_jax.stages import recipe
from ega_jax.systems.ega import Options
from oracles_evaluation import score_by_loop

LENGTH = 4


def _cascade(**settings):
  params = tiny_run.trained()[1]["ranker"]
  return Cascade("MCA", recipe.build_ranker(tiny_run.config()), params, LENGTH, models=tiny_run.models(), **settings)


def _shown(system):
  batch = tiny_run.requests_of_test()
  slate = system.allocate(batch, batch["bid"][:, None])
  items = np.asarray(slate.items)
  poi = np.take_along_axis(batch["candidates"], items[:, 0], 1)
  catalog = tiny_run.trained()[1]["ranker"]["catalog"]
  np.testing.assert_array_equal(np.asarray(catalog.creative_poi)[np.asarray(slate.creatives)[:, 0]], poi)
  assert ((slate.click_probability > 0) & (slate.click_probability < 1)).all()
  tiny_run.assert_legal(items, batch, LENGTH)
  return slate, np.take_along_axis(batch["is_ad"], items[:, 0], 1)


def test_greedy_slots_follow_the_ad_load_knob():
  shares = [_shown(_cascade().with_knob(price))[1].mean() for price in (-30.0, 0.3, 30.0)]
  assert shares[0] >= shares[1] >= shares[2] and shares[0] > shares[2]


@pytest.mark.parametrize("slots", [0.0, 1.0, 2.5, 4.0])
def test_fixed_slots_hold_the_promised_number_of_ads(slots):
  counts = _shown(_cascade(slots="fixed").with_knob(slots))[1].sum(1)
  assert set(counts.tolist()) <= {int(np.floor(slots)), int(np.ceil(slots))}


@pytest.mark.parametrize("kind", ["ads", "organic"])
def test_fixed_slots_go_to_the_others_where_one_kind_runs_out(kind):
  batch = tiny_run.requests_of_test()
  scarce = batch["is_ad"] if kind == "ads" else ~batch["is_ad"]
  left = scarce & (np.cumsum(scarce & (batch["candidates"] >= 0), 1) <= 1)
  batch = batch | {"candidates": np.where(left | ~scarce, batch["candidates"], -1)}
  items = np.asarray(_cascade(slots="fixed").with_knob(2.0).allocate(batch, batch["bid"][:, None]).items)[:, 0]
  tiny_run.assert_legal(items, batch, LENGTH)
  assert (np.take_along_axis(scarce, items, 1).sum(1) == 1).all()


def test_reranking_never_lowers_the_score_of_the_list_it_starts_from():
  batch = tiny_run.requests_of_test()

  def score(slate, system):
    rows = zip(slate.items[:, 0], slate.click_probability[:, 0], batch["bid"], batch["is_ad"], strict=True)
    return np.array([score_by_loop(*row, *map(float, system.objective)) for row in rows])

  alone, many, more = _cascade(num_lists=1), _cascade(num_lists=12), _cascade(num_lists=12, rounds=4).with_knob(0.3)
  more = more.with_knob(alone.knob)  # at another ad load it has as many rounds
  before, after, last = (score(_shown(system)[0], system) for system in (alone, many, more))
  assert (after >= before - 1e-6).all() and (after > before + 1e-6).any()
  assert (last >= after - 1e-6).all() and (last > after + 1e-6).any()


def test_list_generation_orders_ads_by_bid_and_needs_bid_free_lists():
  params = tiny_run.trained()[1]["policy_bid_free"]
  build = lambda **options: recipe.ega_system(tiny_run.config(), tiny_run.models(), params, Options(**options))
  slate, is_ad = _shown(ListGeneration("GR", build(bid_free=True)))
  with pytest.raises(ValueError, match="bid_free"):
    ListGeneration("GR", build())
  batch = tiny_run.requests_of_test()
  bids = np.where(batch["is_ad"], 1.0 + 50.0 * np.arange(batch["bid"].shape[1]), 0.0)[:, None]
  moved = ListGeneration("GR", build(bid_free=True)).allocate(batch, bids)
  np.testing.assert_array_equal(np.sort(moved.items), np.sort(slate.items))  # bids only permute the ads
  fixed, greedy = _cascade(slots="fixed"), _cascade()
  assert not ListGeneration.load_sees_bids and not fixed.load_sees_bids and greedy.load_sees_bids
