"""Trees described as JSON and rebuilt."""

import json

import jax
import numpy as np
import optax
import pytest

from ega_jax.training.structure import describe, nested, rebuild, restructure, shapes
from ega_jax.types import SemanticIds

TREE = {
  "ids": SemanticIds(np.zeros((4, 3), np.int32), np.ones((2, 1), np.int32)),
  "layers": [{"kernel": np.zeros((2, 5), np.float32)}, None],
  "moments": optax.EmaState(np.zeros((), np.int32), (np.zeros(3, np.float16),)),
}


def test_rebuilt_tree_has_the_structure_shapes_and_names():
  names = {"layers/0/kernel": ("embed", "mlp")}
  rebuilt, found = rebuild(json.loads(json.dumps(describe(TREE, names))))
  assert jax.tree.structure(rebuilt) == jax.tree.structure(TREE)
  assert shapes(rebuilt) == shapes(TREE)
  assert shapes(TREE)["ids/poi"] == "int32[4,3]"
  assert found == names


def test_nested_and_restructure_are_inverse():
  values = nested(TREE)
  assert set(values["moments"]) == {"count", "ema"} and isinstance(values["layers"], dict)
  back = restructure(TREE, values)
  assert jax.tree.structure(back) == jax.tree.structure(TREE)
  assert all(a is b for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(TREE), strict=True))


def test_a_leaf_that_is_no_array_is_refused():
  with pytest.raises(ValueError, match="params leaf 'a/b' is not an array"):
    describe({"a": {"b": object()}}, {})
