"""Laws of decoding, over random markets and settings."""

import itertools

import jax
import numpy as np
import pytest

from ega_jax.decoding import constraints
from ega_jax.decoding.beam import generate_lists, own_bid_sweep
from ega_jax.decoding.lists import ListConfig, allocate_in_chunks, proposal_bids
from ega_jax.decoding.prior import prior_after
from oracles_decoding import ToyModel, random_markets, stack

SEEING = {"list_prior": 4, "charged": True}


def _case(seed, ads=7, organic=4, vocabulary=5, batch=2, levels=2, length=4, **settings):
  rng = np.random.default_rng(seed)
  markets = random_markets(rng, batch, ads, organic, levels, vocabulary, **settings)
  return rng, markets, ToyModel(rng, vocabulary, length * levels, scale=0.7), stack(markets)


def _lists(lists):
  """[B][P] lists of (log z, items), best first."""
  items = np.take_along_axis(np.asarray(lists.items)[:, None], np.asarray(lists.index)[..., None], 2)
  log_z = np.asarray(lists.log_z)
  return [
    [[(z, tuple(y)) for z, y in zip(*row, strict=True) if z > -np.inf] for row in zip(log_z[b], items[b], strict=True)]
    for b in range(log_z.shape[0])
  ]


def _same(first, second):
  for one, two in zip(itertools.chain(*first), itertools.chain(*second), strict=True):
    assert [items for _, items in one] == [items for _, items in two]
    np.testing.assert_allclose([z for z, _ in one], [z for z, _ in two], rtol=1e-4, atol=1e-4)


def _sweep_case(seed, **sizes):
  rng, markets, model, (table, bids, prior) = _case(seed, **sizes)
  ads = np.stack([4 + rng.permutation(7)[:3] for _ in markets]).astype(np.int32)
  ads[0, 2] = -1
  nodes = np.float32(rng.choice([0.0, 1.0, 10.0, 100.0], (len(markets), 3, 1)) * np.arange(5) / 2)
  profiles = np.repeat(bids[:, None, None], 15, 1).reshape(len(markets), 3, 5, -1)
  for b, a in itertools.product(range(len(markets)), range(3)):
    if ads[b, a] >= 0:
      profiles[b, a, :, ads[b, a]] = nodes[b, a]
  return model, table, bids, prior, ads, nodes, profiles.reshape(len(markets), 15, -1)


@pytest.mark.parametrize("seeing", [{}, SEEING])
@pytest.mark.parametrize(
  "settings",
  [
    {},
    {"token_bid": "mean", "organic_beta": 0.5, "bid_scale": 2.0},
    {"token_bid": "expected"},
    {"collision": "bucket", "organic_beta": 6.0},
    {"bid_cell": 2.0},
  ],
)
def test_a_sweep_is_its_profiles_one_at_a_time(settings, seeing):
  unique = settings.get("collision") != "bucket"
  model, table, bids, prior, ads, nodes, profiles = _sweep_case(3, unique=unique, **seeing)
  config = ListConfig(list_length=4, num_lists=5, max_prefixes=75, **settings)
  decoder = model.decoder(2)
  sweep = jax.jit(lambda: own_bid_sweep(decoder, table, bids, ads, nodes, prior, config))()
  together = jax.jit(lambda: generate_lists(decoder, table, profiles, prior, config))()
  if not settings:
    config = ListConfig(list_length=4, num_lists=5)
    single = jax.jit(lambda bids: generate_lists(decoder, table, bids, prior, config))
    alone = [_lists(single(profiles[:, g : g + 1])) for g in range(15)]
    _same(_lists(together), [[alone[g][b][0] for g in range(15)] for b in range(2)])
  _same(_lists(sweep), _lists(together))
  assert not np.any(sweep.overflow) and len({lists[0][1] for lists in _lists(sweep)[1]}) > 1


def test_overflow_is_flagged_and_chunks_cure_it():
  model, table, bids, prior, ads, nodes, profiles = _sweep_case(4)
  run = lambda slots: jax.jit(
    lambda ads, nodes: own_bid_sweep(
      model.decoder(2), table, bids, ads, nodes, prior, ListConfig(list_length=4, num_lists=5, max_prefixes=slots)
    )
  )
  enough, tight = run(75)(ads, nodes), run(12)
  assert np.any(tight(ads, nodes).overflow) and not np.any(enough.overflow)
  chunks = allocate_in_chunks(tight, ads, nodes)
  _same(_lists(chunks), _lists(enough))
  config = ListConfig(list_length=4, num_lists=5, max_prefixes=12)
  generate = jax.jit(lambda profiles: generate_lists(model.decoder(2), table, profiles, prior, config))
  _same(_lists(allocate_in_chunks(generate, profiles)), _lists(enough))


@pytest.mark.parametrize("settings", [{}, {"charged": True}])
def test_a_batch_is_its_requests_and_lists_are_legal_unused_and_in_organic_order(settings):
  _, markets, model, (table, bids, prior) = _case(5, batch=3, **settings)
  config = ListConfig(list_length=4, num_lists=40)

  def generate(table, bids, prior, model):
    return generate_lists(model.decoder(bids.shape[0]), table, bids[:, None], prior, config)

  run = jax.jit(generate, static_argnums=3)
  lists = run(table, bids, prior, model)
  for b, market in enumerate(markets):
    one = ToyModel(np.random.default_rng(0), 5, 8)
    one.embedding, one.place, one.head, one.request = model.embedding, model.place, model.head, model.request[b:]
    _same(_lists(run(*jax.tree.map(lambda x, b=b: x[b : b + 1], (table, bids, prior)), one)), [_lists(lists)[b]])
    for _, items in _lists(lists)[b][0]:
      assert all(item in market.legal(items[:k]) for k, item in enumerate(items))
    assert len({items for _, items in _lists(lists)[b][0]}) == 40


@pytest.mark.parametrize("settings", [{}, SEEING])
def test_wide_beams_are_brute_force(settings):
  _, markets, model, (table, bids, prior) = _case(6, ads=3, organic=2, vocabulary=3, levels=2, length=3, **settings)
  config = ListConfig(list_length=3, num_lists=64)
  lists = _lists(jax.jit(lambda: generate_lists(model.decoder(2), table, bids[:, None], prior, config))())
  for b, market in enumerate(markets):
    every = [y for y in itertools.permutations(range(5), 3) if all(y[k] in market.legal(y[:k]) for k in range(3))]
    expected = sorted(((sum(market.log_z(lambda path, b=b: model.logits(path, b), y)), y) for y in every), reverse=True)
    _same([lists[b]], [[expected]])
    np.testing.assert_allclose(sum(np.exp(z) for z, _ in lists[b][0]), 1.0, rtol=1e-4)


def test_lists_end_where_candidates_do():
  _, _, model, (table, bids, prior) = _case(7, ads=1, organic=1)
  config = ListConfig(list_length=3, num_lists=4)
  lists = jax.jit(lambda: generate_lists(model.decoder(2), table, bids[:, None], prior, config))()
  assert np.all(np.asarray(lists.log_z) == -np.inf) and np.all(np.asarray(lists.items) == -1)


@pytest.mark.parametrize("settings", [{}, SEEING, {"bid_cell": 2.0, **SEEING}])
@pytest.mark.parametrize("token_bid", ["max", "mean", "expected"])
def test_an_items_z_never_falls_in_its_bid(token_bid, settings):
  settings = dict(settings)
  config = ListConfig(token_bid=token_bid, organic_beta=3.0, bid_cell=settings.pop("bid_cell", 1.0))
  rng, _, _, (table, bids, prior) = _case(8, ads=9, organic=4, vocabulary=4, batch=6, **settings)
  shown = rng.integers(-1, 13, (6, 8, 3))
  under, after = constraints.available_items(table, shown), prior_after(prior, shown)
  logits = rng.normal(size=(6, 8, 4)).astype(np.float32)

  @jax.jit
  def log_z(bids):
    seen = proposal_bids(bids, config, table.slot_charge)
    return constraints.token_log_z(logits, under, table, 1, seen, after, config)

  for _ in range(20):
    ad = rng.integers(4, 13, 6)
    bids = np.where(table.is_ad, rng.lognormal(0, 1.5, bids.shape), 0).astype(np.float32)
    code = table.codes[np.arange(6), ad, 1]
    curve = []
    for own in np.linspace(0, 12, 7):
      bids[np.arange(6), ad] = own
      own_z = np.take_along_axis(np.asarray(log_z(bids)), code[:, None, None], 2)[..., 0]
      curve.append(own_z[under[np.arange(6), :, ad]])
    assert np.all(np.diff(np.exp(curve), axis=0) >= -1e-6)
    assert np.any(np.diff(curve, axis=0) > 1e-3)


def test_max_by_token_is_the_maximum_however_many_items():
  rng = np.random.default_rng(9)
  values = rng.choice(rng.normal(size=200).astype(np.float32), (2, 700))
  codes = rng.integers(0, 6, (2, 700))
  under = rng.uniform(size=(2, 5, 700)) < rng.choice([0.0, 0.003, 0.5], (2, 5, 1))
  tokens = np.eye(6, dtype=np.float32)[codes]
  found = constraints.max_by_token(under, *constraints.ranked(values), tokens)
  every = np.where(under[..., None] & (tokens[:, None] > 0), values[:, None, :, None], -np.inf)
  np.testing.assert_array_equal(found, every.max(2))


def test_a_tiny_prior_stays_legal_and_a_padded_item_never_is():
  _, _, _, (table, bids, prior) = _case(10)
  under = constraints.available_items(table, np.full((2, 1, 4), -1))
  prior = np.where(np.arange(12) == 6, np.float32(-1e4), prior)
  z = constraints.token_log_z(np.zeros((2, 1, 5), np.float32), under, table, 0, bids, prior[:, None], ListConfig())
  assert z.shape == (2, 1, 5)
  for b in range(2):
    legal = set(table.codes[b, np.asarray(under)[b, 0], 0])
    assert {int(v) for v in np.flatnonzero(np.isfinite(z[b, 0]))} == {int(v) for v in legal}
  assert not np.any(under[:, :, -1])
