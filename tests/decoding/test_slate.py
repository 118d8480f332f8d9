"""Rollouts, teacher-forced log z, the choice among lists, and creatives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.decoding import constraints, slate
from ega_jax.decoding.lists import ListConfig
from ega_jax.types import CandidateTable, Lists
from oracles_decoding import ToyModel, random_markets, stack
from oracles_evaluation import score_by_loop

SEEING = {"list_prior": 4, "charged": True}


def _case(seed, ads=6, organic=3, **settings):
  rng = np.random.default_rng(seed)
  markets = random_markets(rng, 2, ads, organic, 2, 5, **settings)
  return rng, markets, ToyModel(rng, 5, 10), stack(markets)


@pytest.mark.parametrize("token_bid", ["max", "mean", "expected"])
@pytest.mark.parametrize("settings", [{}, SEEING, {"unique": False, **SEEING}])
def test_masked_greedy_is_the_beam_of_one_without_the_candidate(settings, token_bid):
  _, markets, model, (table, bids, prior) = _case(0, token_bid=token_bid, **settings)
  config = ListConfig(list_length=4, num_lists=1, token_bid=token_bid)
  masked = np.zeros((2, 4, 10), bool)
  masked[:, 1, 1] = masked[:, 2, 5] = masked[:, 3, 2:9] = True
  items = np.asarray(jax.jit(lambda: slate.greedy(model.decoder(2), table, bids, prior, config, masked))())
  for b, market in enumerate(markets):
    for j in range(4):
      market.masked = frozenset(np.flatnonzero(masked[b, j]))
      length = min(4, 9 - len(market.masked))
      (_, expected), = market.beam(lambda path, b=b: model.logits(path, b), length, 1)
      assert tuple(items[b, j]) == expected + (-1,) * (4 - length)


@pytest.mark.parametrize("token_bid", ["max", "mean", "expected"])
@pytest.mark.parametrize("alpha", [0.2, 3.0, 20.0])
def test_the_largest_bid_still_makes_a_list(alpha, token_bid):
  _, _, model, (table, bids, prior) = _case(5)
  config = ListConfig(list_length=4, alpha=alpha, token_bid=token_bid, bid_scale=0.7, bid_cell=2.0)
  most = np.where(table.is_ad, constraints.largest_bid(config), 0.0).astype(np.float32)
  items = np.asarray(slate.greedy(model.decoder(2), table, most, prior, config))
  assert np.isfinite(most).all() and (items >= 0).all()


def test_at_a_low_temperature_sampling_is_greedy():
  _, _, model, (table, bids, prior) = _case(11)
  config = ListConfig(list_length=3)
  cold = slate.sampled(model.decoder(2), table, bids, prior, config, jax.random.key(0), temperature=1e-4)
  np.testing.assert_array_equal(cold, slate.greedy(model.decoder(2), table, bids, prior, config))
  warm = slate.sampled(model.decoder(2), table, bids, prior, config, jax.random.key(0))
  assert (np.asarray(warm) != np.asarray(cold)).any()


@pytest.mark.parametrize("length,settings", [(1, {}), (2, SEEING)])
def test_sampled_lists_follow_z(length, settings):
  _, markets, model, (table, bids, prior) = _case(1, ads=2, organic=1, **settings)
  config = ListConfig(list_length=length, num_lists=1)
  masked = np.zeros((2, 4000, 4), bool)
  sample = jax.jit(lambda rng: slate.sampled(model.decoder(2), table, bids, prior, config, rng, masked))
  items = np.asarray(sample(jax.random.key(0)))
  for b, market in enumerate(markets):
    for one in itertools.permutations(range(3), length):
      z = np.exp(sum(market.log_z(lambda path, b=b: model.logits(path, b), one)))
      assert abs(np.mean((items[b] == one).all(-1)) - z) < 4 * np.sqrt(z * (1 - z) / 4000) + 1e-3


def test_lists_sampled_at_a_temperature_have_the_log_probability_that_is_taken_of_them():
  _, _, model, (table, _, prior) = _case(4, ads=2, organic=1)
  bids, prior = np.asarray(table.is_ad, np.float32), 0.2 * prior  # nothing dominates
  config = ListConfig(list_length=1)
  masked = np.zeros((2, 4000, 4), bool)
  items = slate.sampled(model.decoder(2), table, bids, prior, config, jax.random.key(1), masked, temperature=0.4)
  total = 0.0
  for item in range(3):
    path = np.asarray(table.codes)[:, item]
    logits = np.array([[model.logits(tuple(row[:t]), b) for t in range(2)] for b, row in enumerate(path)], np.float32)
    one = np.full((2, 1), item)
    z = np.exp(slate.list_log_z(logits[:, None], table, one, bids, prior, config, temperature=0.4))[:, 0]
    total = total + z
    share = np.mean(np.asarray(items)[..., 0] == item, axis=1)
    assert np.all(np.abs(share - z) < 4 * np.sqrt(z * (1 - z) / 4000) + 1e-3)
  np.testing.assert_allclose(total, 1.0, rtol=1e-4)


@pytest.mark.parametrize("token_bid", ["max", "mean", "expected"])
@pytest.mark.parametrize("seeing", [{}, SEEING])
@pytest.mark.parametrize("reuse", [False, True])
def test_list_log_z(reuse, seeing, token_bid):
  _, markets, model, (table, bids, prior) = _case(2, reuse=reuse, token_bid=token_bid, **seeing)
  config = ListConfig(list_length=4, token_bid=token_bid)
  items = np.array([[2, 2, 5, 0], [8, 1, 1, -1]] if reuse else [[0, 4, 1, 2], [3, 0, 8, -1]])
  codes = np.array([[m.codes[i] for i in row] for m, row in zip(markets, items, strict=True)]).reshape(2, -1)
  logits = np.array([[model.logits(path[:t], b) for t in range(8)] for b, path in enumerate(codes)], np.float32)
  logits = logits.reshape(2, 4, 2, 5)
  found = np.asarray(slate.list_log_z(logits, table, items, bids, prior, config, reuse))
  for b, market in enumerate(markets):
    expected = market.log_z(lambda path, b=b: model.logits(path, b), tuple(i for i in items[b] if i >= 0))
    np.testing.assert_allclose(found[b], expected + [0.0] * (4 - len(expected)), rtol=2e-5, atol=2e-5)


def test_list_log_z_without_bids_and_prior_sums_to_one_over_the_first_item():
  rng, _, _, (table, _, _) = _case(3)
  logits = np.broadcast_to(rng.normal(size=(2, 1, 2, 5)).astype(np.float32), (2, 1, 2, 5)).copy()
  legal = [i for i in range(9) if i == 0 or i >= 3]
  by_path = {}
  for item in legal:
    step = slate.list_log_z(logits, table, np.full((2, 1), item), None, None, ListConfig())
    by_path[item] = np.exp(np.asarray(step))[:, 0]
  np.testing.assert_allclose(sum(by_path.values()), 1.0, rtol=1e-5)
  illegal = np.asarray(slate.list_log_z(logits, table, np.full((2, 1), 1), None, None, ListConfig()))
  assert np.all(illegal == -np.inf)


def test_list_log_z_gradients_are_finite_and_those_of_a_softmax():
  rng, _, _, (table, bids, prior) = _case(4)
  items = np.array([[0, 4, 1, 2], [1, 0, 8, -1]])  # the second request's first item is illegal
  logits = rng.normal(size=(2, 4, 2, 5)).astype(np.float32)
  config = ListConfig(list_length=4)

  def loss(logits, prior):
    log_z = slate.list_log_z(logits, table, items, bids, prior, config)
    return jnp.sum(jnp.where(jnp.isfinite(log_z), log_z, 0.0))

  extreme = prior.copy()
  extreme[0, 5] = -1e4
  for g in (prior, extreme):
    d_logits, d_prior = jax.grad(loss, (0, 1))(logits, g)
    assert np.all(np.isfinite(d_logits)) and np.all(np.isfinite(d_prior))
    np.testing.assert_allclose(np.sum(d_logits, -1), 0.0, atol=1e-5)
  assert np.all(np.asarray(d_logits)[1, 3] == 0) and np.any(np.asarray(d_prior)[0] != 0)
  direction = rng.normal(size=prior.shape).astype(np.float32)
  slope = (loss(logits, prior + 1e-2 * direction) - loss(logits, prior - 1e-2 * direction)) / 2e-2
  np.testing.assert_allclose(np.vdot(jax.grad(loss, 1)(logits, prior), direction), slope, rtol=2e-2)


def test_zero_decoder_makes_z_a_softmax_of_the_prior():
  _, _, _, (table, _, prior) = _case(5)
  legal = [0] + list(range(3, 9))
  for b in range(2):
    expected = prior[b, legal] - np.log(np.sum(np.exp(prior[b, legal])))
    for n, item in enumerate(legal):
      log_z = slate.list_log_z(np.zeros((2, 1, 2, 5)), table, np.full((2, 1), item), None, prior, ListConfig())
      np.testing.assert_allclose(log_z[b, 0], expected[n], rtol=1e-5)


def test_a_shared_catalogue_is_broadcast():
  rng = np.random.default_rng(6)
  codes = rng.permutation(16)[:, None] // np.array([4, 1]) % 4
  table = CandidateTable(codes[None], np.ones((1, 16), bool), np.ones((1, 16), bool), np.full((1, 16), -1))
  repeated = jax.tree.map(lambda x: np.repeat(x, 3, 0), table)
  items, logits, prior = rng.integers(0, 16, (3, 5)), rng.normal(size=(3, 5, 2, 4)), rng.normal(size=(3, 16))
  one, many = (slate.list_log_z(logits, t, items, None, prior, ListConfig(), reuse=True) for t in (table, repeated))
  np.testing.assert_allclose(one, many, rtol=1e-6)


def test_the_list_score_charges_every_ad_shown_and_nothing_else():
  rng = np.random.default_rng(8)
  items = np.stack([rng.permutation(6)[:4] for _ in range(30)])
  items[::3, 3] = -1
  theta, bids, is_ad = rng.uniform(size=items.shape), rng.normal(size=6), np.arange(6) >= 2
  own, ads = bids[np.maximum(items, 0)], is_ad[np.maximum(items, 0)]
  for price in (0.0, 0.25, -0.5):
    score = slate.list_score(theta, own, ads, slate.Objective(0.4, price), where=items >= 0)
    expected = [score_by_loop(row, clicks, bids, is_ad, 0.4, price) for row, clicks in zip(items, theta, strict=True)]
    np.testing.assert_allclose(score, expected, rtol=1e-5, atol=1e-6)
    full = items[:, 3] >= 0
    np.testing.assert_allclose(
      slate.list_score(theta, own, ads, slate.Objective(0.4, price))[full], np.array(expected)[full], atol=1e-6
    )
  assert slate.Objective(0.4) == (0.4, 0.0)


@pytest.mark.parametrize("price", [0.0, 0.3, -0.2])
def test_best_of_scores_every_list_and_breaks_ties_by_items(price):
  rng = np.random.default_rng(7)
  items = np.stack([np.stack([rng.permutation(6)[:3] for _ in range(5)]) for _ in range(2)])
  theta, bids = rng.uniform(size=(2, 5, 3)), rng.normal(size=(2, 3, 6))
  is_ad = np.broadcast_to(np.arange(6) >= 2, (2, 6))
  index = rng.integers(0, 5, (2, 3, 4))
  log_z = np.zeros((2, 3, 4))
  log_z[:, :, 3] = -np.inf
  log_z[1, 2] = -np.inf
  lists = Lists(items, index, log_z, np.zeros(2, bool))
  found, chosen, score = slate.best_of(lists, theta, bids, is_ad, slate.Objective(0.4, price))
  for b in range(2):
    for g in range(3):
      each = {u: score_by_loop(items[b, u], theta[b, u], bids[b, g], is_ad[b], 0.4, price) for u in index[b, g, :3]}
      if (b, g) == (1, 2):
        assert np.all(found[b, g] == -1) and score[b, g] == -np.inf
        continue
      best = max(each, key=each.get)
      assert chosen[b, g] == best and np.array_equal(found[b, g], items[b, best])
      np.testing.assert_allclose(score[b, g], each[best], rtol=1e-5)
  tied = Lists(items, np.broadcast_to(np.arange(5), (2, 3, 5)), np.zeros((2, 3, 5)), np.zeros(2, bool))
  found, _, _ = slate.best_of(tied, theta, bids * 0, is_ad, slate.Objective(0.0))
  assert all(tuple(found[b, g]) == min(map(tuple, items[b])) for b in range(2) for g in range(3))
