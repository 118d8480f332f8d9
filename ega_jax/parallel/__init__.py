"""Parallelism: the mesh, the rules from logical axes to mesh axes, and the shardings that follow."""

from ega_jax.parallel.mesh import AXES, make_mesh, parse_mesh
from ega_jax.parallel.partition import global_batch, logical_names, partition_spec, tree_shardings, unbox
from ega_jax.parallel.rules import RULES, flax_rules

__all__ = [
  "AXES",
  "RULES",
  "flax_rules",
  "global_batch",
  "logical_names",
  "make_mesh",
  "parse_mesh",
  "partition_spec",
  "tree_shardings",
  "unbox",
]
