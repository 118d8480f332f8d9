"""Beam search against the dictionary oracle: bids, priors that see the list, charged slots, shared codes."""

import itertools

import jax
import numpy as np
import pytest

from ega_jax.decoding import slots
from ega_jax.decoding.beam import generate_lists, own_bid_sweep
from ega_jax.decoding.lists import ListConfig
from oracles_decoding import ToyModel, random_markets, stack

SIZES = {"batch": 3, "ads": 7, "organic": 4, "levels": 2, "vocabulary": 5}
SEEING = {"list_prior": 4, "charged": True}


def _case(seed, settings, **sizes):
  rng = np.random.default_rng(seed)
  sizes = {**SIZES, **sizes}
  markets = random_markets(rng, **sizes, **settings)
  model = ToyModel(rng, sizes["vocabulary"], 4 * sizes["levels"])
  return markets, model, stack(markets)


def _expected(markets, model, config):
  size = (config.list_length, config.num_lists)
  return [m.beam(lambda path, b=b: model.logits(path, b), *size) for b, m in enumerate(markets)]


def _compare(lists, beams, profile=0):
  items = np.take_along_axis(np.asarray(lists.items), np.asarray(lists.index)[:, profile, :, None], 1)
  log_z = np.asarray(lists.log_z)[:, profile]
  assert not np.any(lists.overflow)
  for b, beam in enumerate(beams):
    found = np.isfinite(log_z[b])
    assert found.sum() == len(beam)
    np.testing.assert_allclose(log_z[b][found], [z for z, _ in beam], rtol=1e-4, atol=1e-4)
    assert [tuple(row) for row in items[b][found]] == [items for _, items in beam]


@pytest.mark.parametrize(
  "settings",
  [
    {},
    {"token_bid": "mean", "organic_beta": 0.7},
    {"token_bid": "expected", "organic_beta": 4.0},
    {"token_bid": "expected", "use_prior": False},
    {"organic_beta": 9.0, "bid_scale": 0.5},
    {"use_prior": False},
    {"use_bids": False, "use_prior": False},
    SEEING,
    {"list_prior": 4, "use_bids": False},
    {"charged": True, "use_prior": False, "token_bid": "expected"},
    {"token_bid": "mean", "organic_beta": 0.7, **SEEING},
    {"token_bid": "expected", "organic_beta": 4.0, "bid_scale": 0.5, **SEEING},
  ],
)
@pytest.mark.parametrize("size", [1, 6])
def test_beam_is_the_oracles(settings, size):
  markets, model, (table, bids, prior) = _case(0, settings)
  names = ("alpha", "beta", "bid_scale", "organic_beta", "token_bid")
  config = ListConfig(list_length=4, num_lists=size, **{n: getattr(markets[0], n) for n in names})
  run = jax.jit(lambda bids, prior: generate_lists(model.decoder(3), table, bids, prior, config))
  lists = run(bids[:, None] if markets[0].use_bids else None, prior if markets[0].use_prior else None)
  _compare(lists, _expected(markets, model, config))


@pytest.mark.parametrize("settings", [{}, SEEING])
def test_shared_codes_go_to_the_highest_bid_power_times_prior(settings):
  markets, model, (table, bids, prior) = _case(1, settings, unique=False)
  config = ListConfig(list_length=4, num_lists=5, collision="bucket")
  lists = jax.jit(lambda: generate_lists(model.decoder(3), table, bids[:, None], prior, config))()
  _compare(lists, _expected(markets, model, config))


@pytest.mark.parametrize(
  "settings", [{}, SEEING, {"token_bid": "mean", **SEEING}, {"token_bid": "expected", **SEEING}]
)
def test_profiles_share_prefixes_without_changing_them(settings):
  markets, model, (table, bids, prior) = _case(2, settings)
  profiles = np.stack([bids, 0 * bids, bids * np.float32(3), bids[:, ::-1] * table.is_ad], 1)
  config = ListConfig(list_length=4, num_lists=5, max_prefixes=20, token_bid=markets[0].token_bid)
  lists = jax.jit(lambda: generate_lists(model.decoder(3), table, profiles, prior, config))()
  for g in range(4):
    for b, market in enumerate(markets):
      market.bids = [float(x) for x in profiles[b, g]]
    _compare(lists, _expected(markets, model, config), g)


@pytest.mark.parametrize("unique,block", [(True, 8), (False, 8), (True, 128)])
@pytest.mark.parametrize("token_bid", ["max", "mean", "expected"])
def test_own_bids_are_the_oracles_where_slots_are_charged(unique, block, token_bid, monkeypatch):
  monkeypatch.setattr(slots, "BLOCK", block)
  markets, model, (table, bids, prior) = _case(3, {"token_bid": token_bid, **SEEING}, unique=unique)
  ads = np.array([[4, 7], [9, 5], [6, -1]], np.int32)
  nodes = np.broadcast_to(np.float32([0.0, 0.8, 3.0, 20.0]), (3, 2, 4))
  collision = "suffix" if unique else "bucket"
  config = ListConfig(list_length=4, num_lists=4, max_prefixes=32, collision=collision, token_bid=token_bid)
  lists = jax.jit(lambda: own_bid_sweep(model.decoder(3), table, bids, ads, nodes, prior, config))()
  for a, g in itertools.product(range(2), range(4)):
    for b, market in enumerate(markets):
      market.bids = [float(nodes[b, a, g]) if i == ads[b, a] else float(x) for i, x in enumerate(bids[b])]
    _compare(lists, _expected(markets, model, config), 4 * a + g)
