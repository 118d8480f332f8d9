"""The prior that sees the list, by loops; what token weights see of a bid where slots have a price."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.decoding import constraints, slate
from ega_jax.decoding.lists import ListConfig, proposal_bids
from ega_jax.decoding.prior import ListPrior, prior_after
from ega_jax.types import CandidateTable

LENGTH, COUNT = 4, 6


def _prior(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  is_ad = jnp.asarray(rng.random((2, COUNT)) < 0.5)
  return ListPrior(draw(2, COUNT), draw(2, COUNT, COUNT), draw(LENGTH), draw(LENGTH), is_ad)


def test_the_prior_after_a_prefix_is_the_loop():
  prior = _prior()
  items = np.array([[[-1] * 4, [3, -1, -1, -1], [1, 4, -1, -1]], [[5, 0, 2, -1], [2, 1, 0, 3], [0, 5, -1, -1]]])
  found = np.asarray(prior_after(prior, items))
  assert found.shape == (2, 3, COUNT)
  for b, x, i in np.ndindex(found.shape):
    taken = [j for j in items[b, x] if j >= 0]
    expected = float(prior.base[b, i])
    if prior.is_ad[b, i]:
      expected += float(prior.ad_slot[min(len(taken), LENGTH - 1)])  # a full list has no next slot
    for place, j in enumerate(taken):
      expected += float(prior.decay[len(taken) - 1 - place]) * float(prior.relation[b, j, i])
    assert found[b, x, i] == pytest.approx(expected, abs=1e-5)


def test_a_prior_that_does_not_see_the_list_is_the_same_after_every_prefix():
  prior, items = _prior(), np.array([[[0, -1]], [[2, 1]]])
  np.testing.assert_array_equal(prior_after(prior.base, items), prior.base[:, None])
  assert prior_after(None, items) is None


def test_every_leaf_of_the_prior_is_learned_through_list_log_z():
  rng, prior = np.random.default_rng(1), _prior(1)
  codes = np.stack([np.stack([rng.permutation(3)[:2] for _ in range(COUNT)]) for _ in range(2)])
  table = CandidateTable(codes, np.ones((2, COUNT), bool), np.asarray(prior.is_ad), np.full((2, COUNT), -1))
  logits = rng.normal(size=(2, LENGTH, 2, 3)).astype(np.float32)
  items = np.stack([rng.permutation(COUNT)[:LENGTH] for _ in range(2)])
  bids = np.where(prior.is_ad, 1.5, 0.0).astype(np.float32)

  def loss(leaves):
    seen = ListPrior(*leaves, is_ad=prior.is_ad)
    return jnp.sum(slate.list_log_z(logits, table, items, bids, seen, ListConfig(token_bid="expected"), reuse=True))

  leaves = (prior.base, prior.relation, prior.decay, prior.ad_slot)
  gradients = jax.grad(loss)(leaves)
  for place, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
    direction = jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
    moved = lambda size, place=place, step=direction: loss(
      tuple(x + size * step if n == place else x for n, x in enumerate(leaves))
    )
    slope = (moved(1e-2) - moved(-1e-2)) / 2e-2
    np.testing.assert_allclose(jnp.vdot(gradient, direction), slope, rtol=3e-2, atol=1e-3)
    assert np.abs(gradient).max() > 1e-3


def test_a_charge_is_taken_off_the_nearest_cell_and_leaves_no_negative_bid():
  config = ListConfig(bid_cell=2.0, bid_scale=3.0)
  bids = np.random.default_rng(0).lognormal(1.0, 1.5, 400).astype(np.float32)
  charge = np.random.default_rng(1).lognormal(0.5, 1.0, 400).astype(np.float32)
  found = np.asarray(proposal_bids(jnp.asarray(bids), config, charge))
  for bid, fee, seen in zip(bids, charge, found, strict=True):
    cell = 3.0 * 2.0 ** np.round(np.log2(bid / 3.0))
    cell = cell if cell >= 0.2 * 3.0 else 0.0
    assert seen == pytest.approx(max(cell - fee, 0.0), rel=1e-4, abs=1e-4)
  assert (found == 0).any() and (found > 0).any()
  papers = proposal_bids(jnp.asarray(bids), ListConfig(), charge)
  np.testing.assert_allclose(papers, np.maximum(bids - charge, 0.0), rtol=1e-6)
  assert proposal_bids(None, config, charge) is None


def test_a_charge_of_zero_is_none():
  config = ListConfig(bid_cell=2.0)
  bids = jnp.asarray(np.random.default_rng(2).lognormal(size=50), jnp.float32)
  np.testing.assert_array_equal(proposal_bids(bids, config, jnp.zeros(50)), proposal_bids(bids, config))


def test_expected_token_bids_without_a_prior_weigh_every_item_alike():
  config = ListConfig(token_bid="expected", alpha=1.0, beta=0.5)
  table = CandidateTable(
    codes=jnp.array([[[0], [0], [1]]]), valid=jnp.ones((1, 3), bool), is_ad=jnp.ones((1, 3), bool),
    organic_rank=jnp.full((1, 3), -1),
  )  # fmt: skip
  tokens = constraints.one_hot_codes(table, 0, 2)
  weight = constraints.token_log_weight(jnp.ones((1, 1, 3), bool), table, jnp.array([[1.0, 3.0, 4.0]]), tokens, config)
  np.testing.assert_allclose(np.exp(weight[0, 0]), [(1.5 + 3.5) / 2, 4.5], rtol=1e-6)
