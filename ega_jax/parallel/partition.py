"""From logical axis names to shardings, refusing what Linen would silently replicate or drop."""

import math

import jax
from flax.core import meta
from jax.sharding import NamedSharding, PartitionSpec

from ega_jax.parallel.rules import BATCH_AXES, RULES


def path_name(path):
  """Returns "generator/poi_decoder/layer_0/kernel" for a pytree key path."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def is_box(leaf):
  """True for a flax box that carries axis names (nn.LogicallyPartitioned)."""
  return isinstance(leaf, meta.AxisMetadata)


def unbox(tree):
  """Returns `tree` without its boxes; no sharding constraint is applied."""
  return jax.tree.map(lambda leaf: leaf.value if is_box(leaf) else leaf, tree, is_leaf=is_box)


def logical_names(tree):
  """Returns {path: logical axis names} of the boxed leaves of `tree`."""
  leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_box)[0]
  return {path_name(path): tuple(leaf.names) for path, leaf in leaves if is_box(leaf)}


def partition_spec(names, shape, mesh, rules=None, *, leaf="leaf", replicate_uneven=False):
  """Returns the PartitionSpec of an array whose dimensions have logical `names`.

  Args:
    names: one logical name or None per dimension.
    shape: the array's shape.
    mesh: a Mesh or AbstractMesh.
    rules: logical name -> mesh axis, tuple of mesh axes, or None; default `RULES`.
    leaf: the array's path, for messages.
    replicate_uneven: whether a dimension that its mesh axes do not divide is kept whole instead of refused.

  Raises:
    ValueError: names and shape differ in length, an unknown name, two dimensions on one mesh axis, an uneven dimension.
  """
  rules = RULES if rules is None else rules
  if len(names) != len(shape):
    raise ValueError(f"{leaf} has shape {tuple(shape)} and axis names {tuple(names)}: one name per dimension is needed")
  used, spec = {}, []
  for name, size in zip(names, shape, strict=True):
    axes = _mesh_axes(name, mesh, rules, leaf)
    for axis in axes:
      if axis in used:
        raise ValueError(f"{leaf}: logical axes {used[axis]!r} and {name!r} both want mesh axis {axis!r}")
      used[axis] = name
    parts = math.prod(mesh.shape[axis] for axis in axes)
    if size % parts and not replicate_uneven:
      where = f"the {parts} devices of mesh axes {axes}"
      raise ValueError(f"{leaf}: dimension {name!r} of size {size} is not divided by {where}")
    spec.append(axes if parts > 1 and size % parts == 0 else None)
  return PartitionSpec(*(axes[0] if axes and len(axes) == 1 else axes for axes in spec))


def _mesh_axes(name, mesh, rules, leaf):
  if name is None:
    return ()
  if name not in rules:
    raise ValueError(f"{leaf}: logical axis {name!r} has no rule; allowed: {', '.join(sorted(rules))}")
  axes = rules[name]
  axes = () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
  if unknown := [axis for axis in axes if axis not in mesh.shape]:
    raise ValueError(f"rule {name!r}: mesh axis {unknown[0]!r} does not exist; allowed: {', '.join(mesh.shape)}")
  return axes


def inherited_names(names, tree):
  """Returns the entries of `names` ({path: names}) that a leaf of `tree` of the same path and rank can take over."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  ranks = {path_name(path): len(leaf.shape) for path, leaf in leaves}
  return {path: axes for path, axes in names.items() if ranks.get(path) == len(axes)}


def tree_shardings(tree, names, mesh, rules=None, *, replicate_uneven=False):
  """Returns the NamedSharding of every leaf of an unboxed `tree`; a leaf that `names` does not know is replicated.

  Args:
    tree: arrays or ShapeDtypeStructs.
    names: {path: logical axis names} as `logical_names` gives.
    mesh, rules, replicate_uneven: as in `partition_spec`, which may refuse a leaf.
  """

  def sharding(path, leaf):
    name = path_name(path)
    if name not in names:
      return NamedSharding(mesh, PartitionSpec())
    spec = partition_spec(names[name], leaf.shape, mesh, rules, leaf=name, replicate_uneven=replicate_uneven)
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(sharding, tree)


def shardings_by_suffix(tree, leaves, mesh):
  """Returns a sharding per leaf of `tree`: that of the leaf of `leaves` (pairs shape, sharding) that its path ends on.

  Optimizer states hold copies of the parameter tree (Adam's moments) under other roots: they follow their parameter.
  A leaf whose shape differs (Adafactor's factors, counts) is replicated.
  """
  is_pair = lambda x: isinstance(x, tuple) and len(x) == 2 and isinstance(x[1], NamedSharding)
  known = dict(jax.tree_util.tree_flatten_with_path(leaves, is_leaf=is_pair)[0])

  def sharding(path, leaf):
    for start in range(len(path)):
      shape, found = known.get(path[start:], (None, None))
      if shape == leaf.shape:
        return found
    return NamedSharding(mesh, PartitionSpec())

  return jax.tree_util.tree_map_with_path(sharding, tree)


def batch_sharding(mesh):
  """Returns the sharding of a batch's columns: requests over every axis but tensor."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_parts(mesh):
  """Returns over how many parts the rows of a batch are split."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def global_batch(batch, mesh):
  """Returns `batch` (host-local numpy columns [b, ...]) as global arrays [b * processes, ...].

  Raises:
    ValueError: a column whose rows the mesh does not divide.
  """
  sharding = batch_sharding(mesh)
  parts = batch_parts(mesh)
  processes = jax.process_count()
  for column, value in batch.items():
    if value.ndim == 0 or (value.shape[0] * processes) % parts:
      allowed = f"rows times {processes} processes that are a multiple of {parts}"
      raise ValueError(f"batch column {column!r} has local shape {value.shape}; allowed: {allowed}")
  return {column: jax.make_array_from_process_local_data(sharding, value) for column, value in batch.items()}
