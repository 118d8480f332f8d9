"""The policy gradient scores lists by EGA's own objective."""

import jax
import jax.numpy as jnp
import pytest

import tiny_run
from ega_jax.decoding import slate
from ega_jax.stages import recipe
from ega_jax.stages.policy import policy_stage
from ega_jax.systems import generation
from ega_jax.systems.choice import Options, believe, score_bids
from ega_jax.types import Request


@pytest.mark.parametrize("bid_free", [False, True])
def test_lists_are_scored_by_mixed_bids_unless_bid_free(bid_free):
  config, models, params = (
    tiny_run.config().copy_and_resolve_references(),
    tiny_run.models(),
    tiny_run.trained()[1]["policy"],
  )
  with config.unlocked():
    config.policy.virtual_share, config.policy.rollout = 0.4, "greedy"
  batch = tiny_run.requests_of_test()
  request = Request.from_batch(batch)
  stage = policy_stage(config, models, recipe.list_config(config), bid_free=bid_free)
  found, rows = stage.loss(params, batch, jax.random.key(0))[2]["score"]
  worth = score_bids(
    Options(virtual=0.0 if bid_free else 0.4, value_sigma=config.value_sigma), request, jnp.asarray(request.bid)
  )
  bids = generation.expected_bids(request, config.value_sigma) if bid_free else jnp.maximum(worth, 0.0)
  prepared = generation.prepare(models, params, request)
  lists = generation.in_market(
    recipe.list_config(config, bid_cell=1.0) if bid_free else recipe.list_config(config), params["market"]
  )
  decoder = generation.decoder(models, params, prepared.memory, config.list_length * prepared.table.codes.shape[-1])
  items = slate.greedy(decoder, prepared.table, bids, prepared.prior, lists)
  _, theta = believe(models, params, prepared, items)
  take = lambda row: jnp.take_along_axis(jnp.asarray(row)[:, None], jnp.maximum(items, 0), -1)
  objective = generation.objective(params["market"])
  expected = slate.list_score(theta, take(worth), take(request.is_ad), objective, where=items >= 0)
  assert float(found) == pytest.approx(float(expected.sum()), rel=1e-4) and rows == len(items)
  plain = slate.list_score(theta, take(request.bid), take(request.is_ad), objective, where=items >= 0)
  assert bid_free == (float(plain.sum()) == pytest.approx(float(expected.sum()), rel=1e-4))
