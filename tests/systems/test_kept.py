"""Kept results: computed once for the same inputs, anew for others, within a bound, and never different ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_run
from ega_jax.baselines import cascade
from ega_jax.stages import recipe
from ega_jax.systems import ega
from ega_jax.systems.ega import Options
from ega_jax.systems.kept import Kept
from ega_jax.types import Slate


class Counted:
  """A function that counts its calls and returns `size` floats that tell the calls apart."""

  def __init__(self, size=4):
    self.calls, self.size = 0, size

  def __call__(self):
    self.calls += 1
    return np.full(self.size, self.calls, np.float32)


def test_the_same_inputs_are_computed_once_and_others_anew():
  kept, compute = Kept(), Counted()
  inputs = {"a": np.arange(6.0).reshape(2, 3), "b": (jnp.ones(2), np.int32(3))}
  first = kept.get(inputs, compute)
  again = kept.get(jax.tree.map(lambda x: np.array(x, copy=True), inputs), compute)
  assert compute.calls == 1 and (again == first).all()
  changed = [
    inputs | {"a": inputs["a"] + 1e-6},
    inputs | {"a": inputs["a"].reshape(3, 2)},
    inputs | {"a": inputs["a"].astype(np.float32)},
    inputs | {"a": inputs["a"].view(np.int64)},
    inputs | {"b": (jnp.ones(2), np.int32(4))},
    inputs | {"b": (jnp.ones(2),)},
  ]
  for calls, one in enumerate(changed, 2):
    assert (kept.get(one, compute) == calls).all() and compute.calls == calls
  assert (kept.get(inputs, compute) == 1).all() and compute.calls == len(changed) + 1


def test_the_layout_of_an_input_in_memory_is_no_part_of_it():
  kept, compute = Kept(), Counted()
  values = np.arange(12.0).reshape(3, 4)
  kept.get(values.T, compute)
  kept.get(np.ascontiguousarray(values.T), compute)
  assert compute.calls == 1
  kept.get(values, compute)
  assert compute.calls == 2


def test_results_are_trees_on_the_host():
  batch = jnp.arange(6).reshape(1, 2, 3)
  found = Kept().get(batch, lambda: (Slate(batch, batch + 1, batch / 2), {"x": jnp.ones(2)}))
  assert isinstance(found[0], Slate) and all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))
  np.testing.assert_array_equal(found[0].creatives, batch + 1)


def test_the_oldest_are_dropped_where_memory_ends():
  kept, compute = Kept(limit=48), Counted()  # three results of 16 bytes
  for key in range(3):
    kept.get(np.int64(key), compute)
  assert [int(kept.get(np.int64(key), compute)[0]) for key in range(3)] == [1, 2, 3] and kept.size == 48
  kept.get(np.int64(3), compute)
  assert compute.calls == 4 and kept.size == 48 and len(kept.results) == 3
  assert [int(kept.get(np.int64(key), compute)[0]) for key in (1, 2, 3)] == [2, 3, 4]
  assert int(kept.get(np.int64(0), compute)[0]) == 5  # it was the oldest, and now drops the next
  assert [int(kept.get(np.int64(key), compute)[0]) for key in (2, 3, 0)] == [3, 4, 5]
  larger = Counted(size=10)
  kept.get(b"large", larger)
  assert kept.size == sum(size for _, size in kept.results.values()) <= 48 and len(kept.results) == 1


@pytest.mark.parametrize("options", [{}, {"bid_free": True}])
def test_own_bid_curves_are_those_without_it(options, monkeypatch):
  params = tiny_run.trained()[1]["policy"]
  build = lambda: recipe.ega_system(tiny_run.config(), tiny_run.models(), params, Options(**options))
  batch, system, plain = tiny_run.requests_of_test(), build(), build()
  monkeypatch.setattr(plain._kept, "get", lambda inputs, compute, enough: compute())
  calls, made = [], type(system)._own_bid_lists
  monkeypatch.setattr(type(system), "_own_bid_lists", lambda *args: calls.append(args[0]) or made(*args))
  ads = np.where(batch["is_ad"], np.arange(batch["is_ad"].shape[1]), -1)[:, -4:]
  nodes = np.broadcast_to(np.linspace(0.0, 6.0, 5), (*ads.shape, 5))
  other = dict(batch, bid=batch["bid"][::-1].copy() * batch["is_ad"], history_poi=np.roll(batch["history_poi"], 1, 0))
  asked = [(batch, batch["bid"], nodes), (batch, batch["bid"], nodes), (batch, 2 * batch["bid"], nodes),
           (other, batch["bid"], nodes), (batch, batch["bid"], nodes)]  # fmt: skip
  for columns, bids, grid in asked:
    kept, fresh = (each.sweep(columns, bids, ads, grid) for each in (system, plain))
    for field in dataclasses.fields(kept):
      np.testing.assert_array_equal(getattr(kept, field.name), getattr(fresh, field.name))
  assert sum(each is system for each in calls) == 3 and sum(each is plain for each in calls) == len(asked)
  system.with_knob(4.0).sweep(batch, batch["bid"], ads, nodes)
  assert len(calls) == 3 + len(asked) + 1  # another price of a slot is another system


def test_what_does_not_answer_is_computed_anew_and_replaced():
  kept, compute = Kept(limit=32), Counted()
  kept.get(b"other", compute)
  assert kept.get(b"key", compute)[0] == 2
  assert kept.get(b"key", compute, lambda found: found[0] > 1)[0] == 2
  assert kept.get(b"key", compute, lambda found: found[0] > 2)[0] == 3 and kept.size == 32
  assert kept.get(b"key", compute)[0] == 3 and kept.get(b"other", compute)[0] == 1 and compute.calls == 3


def test_what_does_not_fit_is_not_kept_and_drops_nothing():
  kept, compute, larger = Kept(limit=32), Counted(), Counted(size=20)
  kept.get(b"small", compute)
  assert kept.get(b"large", larger).size == 20 and kept.size == 16
  kept.get(b"large", larger)
  kept.get(b"small", compute)
  assert (larger.calls, compute.calls) == (2, 1)


@pytest.mark.parametrize("options", [{}, {"bid_free": True}])
def test_a_request_is_prepared_once_for_all_ad_loads(options, monkeypatch):
  params = tiny_run.trained()[1]["policy"]
  build = lambda: recipe.ega_system(tiny_run.config(), tiny_run.models(), params, Options(**options))
  batch, system, prices, calls = tiny_run.requests_of_test(), build(), (-0.5, 0.4, 2.0), []
  bids, prepare = 6 * batch["bid"][:, None], ega._prepare
  monkeypatch.setattr(ega, "_prepare", lambda *args: calls.append(args) or prepare(*args))
  found = [system.with_knob(price).allocate(batch, bids) for price in prices]
  assert len(calls) == 1
  fresh = [build().with_knob(price).allocate(batch, bids) for price in prices]
  for one, other in zip(found, fresh, strict=True):
    for field in dataclasses.fields(one):
      np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
  assert len({one.items.tobytes() for one in found}) == len(prices)
  calls.clear()
  system.with_knob(3.0).forget()  # at every ad load
  system.with_knob(prices[0]).allocate(batch, bids)
  assert len(calls) == 1 and system._requests.size > 0


def test_a_cascade_ranks_a_request_once_whatever_the_bids_and_the_ad_load(monkeypatch):
  config, params, calls = tiny_run.config(), tiny_run.trained()[1]["ranker"], []
  rank = cascade._rank
  monkeypatch.setattr(cascade, "_rank", lambda *args: calls.append(args) or rank(*args))
  build = lambda: cascade.Cascade("MCA", recipe.build_ranker(config), params, 4, models=tiny_run.models())
  system, batch = build(), tiny_run.requests_of_test()
  for price, scale in ((0.1, 1.0), (0.1, 2.0), (0.6, 2.0)):
    bids = scale * batch["bid"][:, None]
    found, fresh = (each.with_knob(price).allocate(batch, bids) for each in (system, build()))
    for field in dataclasses.fields(found):
      np.testing.assert_array_equal(getattr(found, field.name), getattr(fresh, field.name))
  assert len(calls) == 1 + 3
  system.forget()
  system.allocate(batch, batch["bid"][:, None])
  assert len(calls) == 5
