"""What is computed of the slots that hold a prefix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.decoding import slots


@pytest.mark.parametrize("last", [0, 3, 4, 11])
def test_blocks_up_to_the_last_prefix_are_those_of_all_slots(last, monkeypatch):
  monkeypatch.setattr(slots, "BLOCK", 4)
  rng = np.random.default_rng(last)
  cache = {"kv": jnp.asarray(rng.normal(size=(2, 3, 12, 5)))}
  rows = (jnp.asarray(rng.normal(size=(3, 12))), None)
  active = np.zeros((3, 12), bool)
  active[:, 0], active[1, last] = True, True
  sizes = []

  def function(cache, rows):
    sizes.append(rows[0].shape[1])
    return {"a": rows[0] ** 2, "b": cache["kv"].sum(0) * rows[0][..., None] > 0}

  found = jax.jit(lambda active: slots.in_blocks(function, cache, rows, active))(active)
  assert set(sizes) == {4}
  done = 4 * (last // 4 + 1)
  for name, whole in function(cache, rows).items():
    np.testing.assert_array_equal(found[name][:, :done], whole[:, :done])
    assert not found[name][:, done:].any()  # left out


def test_few_slots_are_taken_at_once():
  sizes = []
  rows = np.ones((2, 64))
  slots.in_blocks(lambda cache, rows: sizes.append(rows.shape) or rows, {}, rows, rows > 0)
  assert sizes == [(2, 64)]
