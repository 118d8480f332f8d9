"""Every parameter of every preset has a sharding: names are known, mesh axes do not collide, dimensions divide."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

import oracles_models as oracle
from ega_jax.models import ega, ega_config, payment, ranker, reward
from ega_jax.parallel import partition
from ega_jax.stages.payment import example_inputs

MESHES = {"small": (1, 2, 2, 2), "pod": (2, 4, 16, 4)}


def _boxed_trees(name):
  rng = np.random.default_rng(0)
  catalog = oracle.catalog(rng, content=32, style=16)
  rows = oracle.request(rng, catalog)
  items = np.zeros((5, 2, 4), np.int32)
  key = jax.random.key(0)
  preset = {"small": ega_config.small, "pod": ega_config.paper}[name](num_pois=2805, num_users=1999)
  ids = oracle.semantic_ids(rng, catalog, preset.poi_levels, 64, preset.creative_levels)
  codes = (ids.poi[items[:, 0]], ids.creative[items[:, 0]])
  yield jax.eval_shape(ega.EGA(preset).init, key, rows, ids, catalog, *codes)
  config = reward.RewardConfig(num_pois=2805, num_users=1999, num_creatives=9001, history="hstu")
  yield jax.eval_shape(reward.RewardModel(config).init, key, rows, catalog, items, items)
  yield jax.eval_shape(ranker.Ranker(config).init, key, rows, catalog, items[:, 0], items[:, 0])
  for form in payment.FORMS:
    inputs = example_inputs(form, num_nodes=9, length=4)
    yield jax.eval_shape(payment.payment_network(form).init, key, inputs, np.zeros((1, 1)))


@pytest.mark.parametrize("name", MESHES)
def test_every_parameter_has_a_sharding(name):
  mesh = AbstractMesh(MESHES[name], ("dcn", "data", "fsdp", "tensor"))
  split = 0
  for boxed in _boxed_trees(name):
    names, params = partition.logical_names(boxed), partition.unbox(boxed)
    assert len(names) == len(jax.tree.leaves(params))
    shardings = partition.tree_shardings(params, names, mesh)
    split += sum(any(s.spec) for s in jax.tree.leaves(shardings))
  assert split > 20
