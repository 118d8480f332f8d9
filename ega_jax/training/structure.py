"""Trees described as JSON, so that a checkpoint can be read without the code that made its parameters."""

import dataclasses
import importlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.parallel.partition import path_name


def nested(tree):
  """Returns the leaves of `tree` as nested dicts keyed by path entries; records, tuples and None are gone."""
  out = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    keys = path_name(path).split("/")
    inner = out
    for key in keys[:-1]:
      inner = inner.setdefault(key, {})
    inner[keys[-1]] = leaf
  return out


def restructure(like, values):
  """Returns a tree of the structure of `like` with the leaves of `values`, as `nested` gives them."""

  def leaf(path, _):
    inner = values
    for key in path_name(path).split("/"):
      inner = inner[key]
    return inner

  return jax.tree_util.tree_map_with_path(leaf, like)


def shapes(tree):
  """Returns {path: "float32[3,4]"} of the leaves of `tree`."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {path_name(path): f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for path, leaf in leaves}


def describe(tree, names, path=""):
  """Returns `tree` without its numbers as JSON: kinds, record types, shapes, dtypes and logical axis names.

  Raises:
    ValueError: a node that is neither a dict with string keys, a list, a tuple, a record, None nor an array.
  """
  below = lambda key: f"{path}/{key}" if path else str(key)
  if tree is None:
    return {"kind": "none"}
  if isinstance(tree, Mapping):
    return {"kind": "dict", "items": {str(key): describe(tree[key], names, below(key)) for key in sorted(tree)}}
  if dataclasses.is_dataclass(tree) or hasattr(tree, "_fields"):
    fields = tree._fields if hasattr(tree, "_fields") else [field.name for field in dataclasses.fields(tree)]
    items = {field: describe(getattr(tree, field), names, below(field)) for field in fields}
    return {"kind": "record", "type": f"{type(tree).__module__}:{type(tree).__qualname__}", "items": items}
  if isinstance(tree, list | tuple):
    return {"kind": type(tree).__name__, "items": [describe(value, names, below(i)) for i, value in enumerate(tree)]}
  if not hasattr(tree, "shape"):
    tree = np.asarray(tree)
    if tree.dtype == object:
      raise ValueError(f"params leaf {path!r} is not an array")
  return {"kind": "leaf", "shape": list(tree.shape), "dtype": str(tree.dtype), "names": names.get(path)}


def rebuild(description):
  """Returns the described tree with ShapeDtypeStruct leaves, and {path: logical axis names}."""
  names = {}
  return _rebuild(description, names, ""), names


def _rebuild(node, names, path):
  kind, items = node["kind"], node.get("items")
  below = lambda key: f"{path}/{key}" if path else str(key)
  if kind == "none":
    return None
  if kind == "leaf":
    if node["names"]:
      names[path] = tuple(node["names"])
    return jax.ShapeDtypeStruct(tuple(node["shape"]), jnp.dtype(node["dtype"]))
  if kind in ("list", "tuple"):
    values = [_rebuild(value, names, below(i)) for i, value in enumerate(items)]
    return values if kind == "list" else tuple(values)
  values = {key: _rebuild(value, names, below(key)) for key, value in items.items()}
  if kind == "dict":
    return values
  module, _, name = node["type"].partition(":")
  cls = importlib.import_module(module)
  for part in name.split("."):
    cls = getattr(cls, part)
  return cls(**values)
