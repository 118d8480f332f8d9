"""Alignment starts at the reward model's belief and fits what a candidate adds to a prefix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_run
from ega_jax.decoding import constraints
from ega_jax.decoding.lists import ListConfig, proposal_bids
from ega_jax.models.ega import LIST
from ega_jax.stages import align, recipe
from ega_jax.systems import generation
from ega_jax.types import Request


@pytest.fixture(scope="module")
def setting():
  models, params = tiny_run.models(), dict(tiny_run.trained()[1]["reward"])
  lists = recipe.list_config(tiny_run.config())
  params["generator"] = align.start_from_belief(params["generator"], lists.alpha, 3.0)
  params = jax.tree.map(jnp.asarray, params)
  request = jax.tree.map(jnp.asarray, Request.from_batch(tiny_run.requests_of_test()))
  prepared = jax.jit(generation.prepare, static_argnums=0)(models, params, request)
  scaled = generation.in_market(lists, params["market"])
  steps = align.sample_steps(models, params, prepared, scaled, tiny_run.config().align, jax.random.key(3))
  return dict(models=models, params=params, request=request, prepared=prepared, lists=scaled, steps=steps)


def test_the_first_item_follows_belief_times_bid(setting):
  prepared, lists = setting["prepared"], setting["lists"]
  table, bids = prepared.table, setting["request"].bid
  belief = np.max(np.asarray(jax.nn.log_sigmoid(prepared.alone["poi"])), axis=-1)
  seen = np.asarray(proposal_bids(bids, lists))
  assert (seen != np.asarray(bids))[np.asarray(table.is_ad)].any()
  power = np.where(table.is_ad, (seen / float(lists.bid_scale)) ** lists.alpha, 0.0)
  weight = power + np.where(table.is_ad, lists.beta, float(lists.organic_beta))
  every = jnp.where(table.valid, jnp.arange(table.valid.shape[1]), -1)
  codes = generation.list_codes(table, every)[:, :, None]
  logits, _ = generation.apply(
    setting["models"].generator, setting["params"]["generator"], "decode", prepared.memory, codes, LIST
  )
  assert np.abs(logits).max() == 0
  from ega_jax.decoding.slate import list_log_z

  log_z = list_log_z(logits[:, :, 0], table, every, bids, prepared.prior, lists, reuse=True)
  expected = np.where(table.valid, np.exp(lists.alpha * belief) * weight, 0.0)
  expected /= expected.sum(-1, keepdims=True)
  np.testing.assert_allclose(np.where(table.valid, np.exp(log_z), 0.0), expected, rtol=2e-3, atol=1e-6)


def test_choices_are_legal_after_their_prefix(setting):
  steps, table = setting["steps"], setting["prepared"].table
  prefix, items = np.asarray(steps["prefix"]), np.asarray(steps["items"])
  open_items = np.asarray(constraints.available_items(table, prefix))
  for b, t, m in np.argwhere(items >= 0):
    assert open_items[b, t, items[b, t, m]]
  counts = (prefix >= 0).sum(-1)
  np.testing.assert_array_equal(counts, steps["place"])
  assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in items.reshape(-1, items.shape[-1]))


def test_the_target_is_the_gain_in_score_by_a_loop(setting):
  models, params, prepared, steps = (setting[key] for key in ("models", "params", "prepared", "steps"))
  options = tiny_run.config().align
  found = np.asarray(align.step_target(models, params, prepared, steps, 1.2, options))
  best = np.asarray(align.best_creatives(params, prepared))
  request, weight = setting["request"], float(params["market"]["organic_weight"])
  clicks = jax.jit(generation.click_probabilities, static_argnums=0)

  def score(b, row):
    items = np.full((len(best), 1, row.size), -1, np.int32)
    items[b, 0] = row
    creatives = np.where(items >= 0, np.take_along_axis(best[:, None], np.maximum(items, 0), 2), -1)
    theta = np.asarray(clicks(models, params, request, items, creatives))[b, 0]
    worth = [float(request.bid[b, i]) if request.is_ad[b, i] else weight for i in row if i >= 0]
    return sum(w * x for w, x in zip(worth, theta[: len(worth)], strict=True))

  for b, t in ((0, 0), (3, 1), (6, 0)):
    prefix, items = np.asarray(steps["prefix"][b, t]), np.asarray(steps["items"][b, t])
    base, gains = score(b, prefix), []
    for item in items[items >= 0]:
      row = prefix.copy()
      row[int(steps["place"][b, t])] = item
      gains.append(score(b, row) - base)
    gains = np.array(gains)
    q = np.maximum(gains, options.floor * gains.max()) ** 1.2
    np.testing.assert_allclose(np.exp(found[b, t][items >= 0]), q / q.sum(), rtol=1e-3, atol=1e-5)


def test_the_divergence_falls_when_it_is_followed(setting):
  models, params, prepared, steps = (setting[key] for key in ("models", "params", "prepared", "steps"))
  target = align.step_target(models, params, prepared, steps, 1.2, tiny_run.config().align)

  @jax.jit
  @jax.value_and_grad
  def loss(generator):
    moved = {**params, "generator": generator}
    again = generation.prepare(models, moved, setting["request"])
    return jnp.mean(align.step_divergence(models, moved, again, steps, target, setting["lists"])[0])

  generator, losses = params["generator"], []
  for _ in range(25):
    value, gradient = loss(generator)
    losses.append(float(value))
    generator = jax.tree.map(lambda x, g: x - 0.3 * g, generator, gradient)
  assert losses[0] > 0 and losses[-1] < 0.9 * losses[0]


def test_expected_token_bids_without_a_prior_weigh_every_item_alike():
  config, table = ListConfig(token_bid="expected", alpha=1.0, beta=0.5), None
  from ega_jax.types import CandidateTable

  table = CandidateTable(
    codes=jnp.array([[[0], [0], [1]]]), valid=jnp.ones((1, 3), bool), is_ad=jnp.ones((1, 3), bool),
    organic_rank=jnp.full((1, 3), -1),
  )  # fmt: skip
  tokens = constraints.one_hot_codes(table, 0, 2)
  weight = constraints.token_log_weight(jnp.ones((1, 1, 3), bool), table, jnp.array([[1.0, 3.0, 4.0]]), tokens, config)
  np.testing.assert_allclose(np.exp(weight[0, 0]), [(1.5 + 3.5) / 2, 4.5], rtol=1e-6)
