"""Logical axis names to partition specs; what Linen would drop in silence raises."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ega_jax.parallel import partition
from ega_jax.parallel.rules import RULES, flax_rules

MESH = AbstractMesh((1, 2, 2, 2), ("dcn", "data", "fsdp", "tensor"))


@pytest.mark.parametrize(
  ("names", "shape", "spec"),
  [
    (("embed", "mlp"), (8, 16), P("fsdp", "tensor")),
    (("layers", "embed", "heads", "kv"), (3, 8, 4, 5), P(None, "fsdp", "tensor", None)),
    (("table", None), (16, 5), P(("dcn", "data", "fsdp", "tensor"), None)),
    (("batch", "length"), (8, 7), P(("dcn", "data", "fsdp"), None)),
    ((), (), P()),
  ],
)
def test_names_become_mesh_axes(names, shape, spec):
  assert partition.partition_spec(names, shape, MESH) == spec


@pytest.mark.parametrize(
  ("names", "shape", "message"),
  [
    (("embedd", "mlp"), (8, 16), "a/b: logical axis 'embedd' has no rule; allowed: batch, embed"),
    (("mlp", "vocab"), (8, 16), "a/b: logical axes 'mlp' and 'vocab' both want mesh axis 'tensor'"),
    (("table", "embed"), (8, 16), "a/b: logical axes 'table' and 'embed' both want mesh axis 'fsdp'"),
    (("embed",), (8, 16), "a/b has shape"),
    (("embed", "mlp"), (7, 16), "a/b: dimension 'embed' of size 7 is not divided by the 2 devices"),
  ],
)
def test_what_would_be_silent_raises(names, shape, message):
  with pytest.raises(ValueError, match=message):
    partition.partition_spec(names, shape, MESH, leaf="a/b")


def test_an_uneven_dimension_is_kept_whole_only_when_told():
  assert partition.partition_spec(("embed", "mlp"), (7, 16), MESH, replicate_uneven=True) == P(None, "tensor")


def test_every_rule_is_usable_and_a_rule_of_an_unknown_mesh_axis_is_refused():
  for name in RULES:
    partition.partition_spec((name,), (16,), MESH)
  with pytest.raises(ValueError, match="rule 'embed': mesh axis 'model' does not exist"):
    partition.partition_spec(("embed",), (8,), MESH, {"embed": "model"})


def test_an_activation_gives_a_shared_mesh_axis_to_its_first_dimension():
  assert nn.logical_to_mesh_axes(("batch", "length", "embed"), flax_rules()) == P(("dcn", "data", "fsdp"), None, None)


def boxed():
  box = lambda shape, *names: nn.LogicallyPartitioned(jnp.zeros(shape), names)
  layer = {"kernel": box((8, 16), "embed", "mlp"), "scale": jnp.zeros(8)}
  return {"layer": layer, "table": box((16, 3), "table", None)}


def test_names_and_shardings_of_a_tree_of_boxes():
  names = partition.logical_names(boxed())
  assert names == {"layer/kernel": ("embed", "mlp"), "table": ("table", None)}
  params = partition.unbox(boxed())
  shardings = partition.tree_shardings(params, names, MESH)
  assert shardings["layer"] == {"kernel": NamedSharding(MESH, P("fsdp", "tensor")), "scale": NamedSharding(MESH, P())}
  grown = {"layer": {"kernel": jnp.zeros((2, 8, 16))}, "table": jnp.zeros((32, 3))}
  assert partition.inherited_names(names, grown) == {"table": ("table", None)}  # another rank cannot take names over


def test_optimizer_moments_lie_where_their_parameter_lies():
  params = partition.unbox(boxed())
  where = partition.tree_shardings(params, partition.logical_names(boxed()), MESH)
  leaves = jax.tree.map(lambda leaf, sharding: (leaf.shape, sharding), params, where)
  state = jax.eval_shape(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init, params)
  found = partition.shardings_by_suffix(state, leaves, MESH)
  assert found[1][0].mu == where and found[1][0].nu == where
  assert found[1][0].count.spec == P()


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
  with pytest.raises(ValueError, match=r"batch column 'x' has local shape \(6, 2\); allowed: rows times 1 processes"):
    partition.global_batch({"x": np.zeros((6, 2))}, MESH)
