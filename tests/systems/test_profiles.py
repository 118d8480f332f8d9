"""Cells of bids: what proposals see, that it saves work and changes no answer, and that curves rise inside a cell."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import tiny_run
from ega_jax.decoding.lists import ListConfig, proposal_bids
from ega_jax.evaluation import payments
from ega_jax.stages import recipe
from ega_jax.systems import profiles
from ega_jax.systems.choice import Options


def test_proposals_see_bids_to_the_nearest_power():
  config = ListConfig(bid_cell=2.0, bid_scale=3.0)
  bids = np.sort(np.random.default_rng(0).lognormal(1.0, 1.5, 500))
  seen = np.asarray(proposal_bids(jnp.asarray(bids), config))
  assert (np.diff(seen) >= 0).all() and len(np.unique(seen)) < 15
  power = np.log2(seen[seen > 0] / 3.0)
  np.testing.assert_allclose(power, np.round(power), atol=1e-5)
  assert np.abs(np.log2(bids[seen > 0] / seen[seen > 0])).max() <= 0.5 + 1e-5
  assert power.min() == pytest.approx(-2, abs=1e-5) and (bids[seen == 0] < 3.0 * 2**-2.5 * 1.0001).all()
  np.testing.assert_allclose(proposal_bids(jnp.asarray(seen), config), seen, rtol=1e-6)
  np.testing.assert_array_equal(proposal_bids(jnp.array([0.0, -1.0]), config), 0)


def test_narrow_cells_lose_little_bids_only():
  config = ListConfig(bid_cell=1.1, bid_scale=1.0)
  bids = np.array([0.05, 0.15, 0.25, 0.5, 3.0])
  seen = np.asarray(proposal_bids(jnp.asarray(bids), config))
  assert (seen[:2] == 0).all() and np.abs(seen[2:] / bids[2:] - 1).max() < 0.05


def test_a_cell_of_one_is_the_papers_and_less_is_an_error():
  bids = jnp.array([0.3, 5.0])
  assert proposal_bids(bids, ListConfig()) is bids and proposal_bids(None, ListConfig(bid_cell=2.0)) is None
  with pytest.raises(ValueError, match=r"bid_cell is 0\.5"):
    ListConfig(bid_cell=0.5)


def test_distinct_columns_lose_nothing():
  rng = np.random.default_rng(1)
  for kinds, width in ((3, 12), (14, 24), (90, 30)):
    values = rng.integers(0, kinds, (5, 2, 30)).astype(np.float32)
    distinct, back = profiles.distinct_columns(values)
    np.testing.assert_array_equal(np.take_along_axis(distinct, back, -1), values)
    assert distinct.shape[-1] <= width and (np.diff(distinct, axis=-1) >= 0).all()


def test_every_bid_below_the_largest_falls_into_a_cell_that_is_there():
  rng = np.random.default_rng(0)
  for scale, ratio in ((0.37, 2.0), (5.0, 1.5)):
    lists = ListConfig(bid_cell=ratio, bid_scale=np.float32(scale))
    bids = scale * np.exp(2.0 * rng.normal(size=(3, 4, 6))).astype(np.float32)
    bids[0, 0] = 0.0  # an ad whose bids all count as 0
    found = profiles.cells_between(proposal_bids(jnp.asarray(bids), lists), lists)
    more = bids.max(-1, keepdims=True) * rng.random((3, 4, 200)).astype(np.float32)
    cells = np.asarray(proposal_bids(jnp.asarray(more), lists))
    for row in np.ndindex(3, 4):
      assert np.isin(cells[row], found[row]).all() and (np.diff(found[row]) >= 0).all()
      assert found[row].max() == np.asarray(proposal_bids(jnp.asarray(bids[row]), lists)).max()
    assert not found[0, 0].any()


def test_bids_that_are_seen_as_they_are_have_no_cells_between():
  bids = np.random.default_rng(1).random((2, 2, 5)).astype(np.float32)
  np.testing.assert_array_equal(profiles.cells_between(bids, ListConfig()), profiles.distinct_columns(bids)[0])


@pytest.fixture(scope="module")
def inside():
  """Returns (system, batch, ads i[B, A], nodes f[B, A, 12]): own bids across three cells, four in each."""
  batch = tiny_run.requests_of_test()
  # Plain bids: with a share of virtual ones the cells are of the mixture.
  system = recipe.ega_system(tiny_run.config(), tiny_run.models(), tiny_run.trained()[1]["policy"], Options())
  items = system.allocate(batch, batch["bid"][:, None]).items[:, 0]
  ads = np.where(np.take_along_axis(batch["is_ad"], items, 1), items, -1)
  scale = float(system.params["market"]["bid_scale"])
  power = np.concatenate([k + np.linspace(-0.49, 0.49, 4) for k in range(3)])
  return system, batch, ads, np.broadcast_to(scale * 2.0**power, (*ads.shape, 12))


def test_inside_a_cell_more_bids_more_clicks(inside):
  system, batch, ads, nodes = inside
  assert system.lists.bid_cell == 2.0
  x = payments.sweep(system, batch, batch["bid"], ads, nodes).x
  rise = np.diff(x.reshape(*ads.shape, 3, 4), axis=-1)
  assert (rise >= -1e-7).all() and (x > 0).any()


def test_what_moves_between_cells_is_the_choice(inside):
  """With bids left as they are, the same lists come out where bids are powers of the cell already."""
  system, batch, ads, nodes = inside
  scale = float(system.params["market"]["bid_scale"])
  power = np.round(np.log2(np.maximum(batch["bid"], 1e-6) / scale))
  powers = np.where(power < -2, 0, scale * 2.0**power).astype(np.float32)
  paper = recipe.ega_system(tiny_run.config(), tiny_run.models(), system.params, Options())
  paper.lists = dataclasses.replace(paper.lists, bid_cell=1.0)
  one, other = (s.allocate(batch | {"bid": powers}, powers[:, None]) for s in (system, paper))
  np.testing.assert_array_equal(one.items, other.items)


def test_lists_are_kept_for_their_cells_and_answer_the_same(inside, monkeypatch):
  system, batch, ads, nodes = inside
  fresh = lambda *args: system.with_knob(system.knob).sweep(batch, *args)  # one that has kept nothing
  later = nodes[..., 1:8] * 1.01  # other bids in the same cells
  asked = [(batch["bid"], ads, nodes), (batch["bid"], ads, later), (batch["bid"], ads, 9 * later),
           (batch["bid"], ads[:, ::-1], later), (batch["bid"] * 2, ads, later)]  # fmt: skip
  expected = [fresh(*one) for one in asked]
  calls, made = [], type(system)._own_bid_lists
  monkeypatch.setattr(type(system), "_own_bid_lists", lambda *args: calls.append(1) or made(*args))
  keeping, counts = system.with_knob(system.knob), []
  for one, slate in zip(asked, expected, strict=True):
    found = keeping.sweep(batch, *one)
    counts.append(len(calls))
    np.testing.assert_array_equal(found.items, slate.items)
    np.testing.assert_allclose(found.click_probability, slate.click_probability, rtol=1e-5)
  assert counts == [1, 1, 2, 3, 4]


def test_a_refinement_finds_its_lists_kept(inside, monkeypatch):
  system, batch, ads, nodes = inside
  scale = float(system.params["market"]["bid_scale"])
  far = np.broadcast_to(scale * np.array([0.0, 0.3, 40.0]), (*ads.shape, 3))  # cells between them that none is in
  calls, made = [], type(system)._own_bid_lists
  monkeypatch.setattr(type(system), "_own_bid_lists", lambda *args: calls.append(1) or made(*args))
  table = payments.Sweeper(system.with_knob(system.knob), batch).table(batch["bid"], ads, far, refinements=5)
  power = np.round(np.log2(np.maximum(table.nodes / scale, 1e-9)))
  assert len(np.unique(power[(table.x > 0).any(-1)])) > 4 and len(calls) == 1
