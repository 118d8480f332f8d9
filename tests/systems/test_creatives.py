"""Creatives of what lists hold: each decided once, and as all candidates at once would be."""

import jax.numpy as jnp
import numpy as np
import pytest

import tiny_run
from ega_jax.data.pipeline import read_split
from ega_jax.stages.batches import REQUEST
from ega_jax.systems import creatives, generation
from ega_jax.types import Request

ROWS = 4


@pytest.fixture(scope="module")
def setting():
  """Returns (models, params, prepared, i32[B, C] the creative of every candidate)."""
  models, params = tiny_run.models(), tiny_run.trained()[1]["policy"]
  request = Request.from_batch(read_split(tiny_run.data(), "test", REQUEST, np.arange(ROWS)))
  prepared = generation.prepare(models, params, request)
  every = jnp.broadcast_to(jnp.arange(request.candidates.shape[1]), request.candidates.shape)
  return models, params, prepared, np.asarray(creatives.item_creatives(models, params, prepared, every))


def _lists(num, rng=0):
  return np.random.default_rng(rng).integers(-1, 12, (ROWS, num, 4)).astype(np.int32)


def test_candidates_are_decided_when_a_list_holds_them_and_once(setting, monkeypatch):
  models, params, prepared, expected = setting
  asked, choose = [], creatives.choose_items

  def counted(models, params, prepared, items):
    asked.append(items)
    return choose(models, params, prepared, items)

  monkeypatch.setattr(creatives, "choose_items", counted)
  known, first, second = creatives.Creatives(models, params), _lists(2), _lists(3, rng=1)
  for lists, seen in ((first, [first]), (second, [first, second])):
    found = known(prepared, lists)
    for row in range(ROWS):
      held = {int(item) for some in seen for item in some[row].reshape(-1)} - {-1}
      for item in range(found.shape[1]):
        assert found[row, item] == (expected[row, item] if item in held else -1)
  assert all(items.shape[1] % creatives.BLOCK == 0 for items in asked)
  for row in range(ROWS):
    decided = [int(item) for items in asked for item in items[row] if item >= 0]
    assert len(decided) == len(set(decided))
  known(prepared, first)
  assert len(asked) == 2


def test_requests_that_are_asked_for_least_recently_are_dropped(setting):
  models, params, prepared, _ = setting
  known = creatives.Creatives(models, params, limit=ROWS - 1)
  np.testing.assert_array_equal(known(prepared, _lists(2)), creatives.Creatives(models, params)(prepared, _lists(2)))
  assert len(known.requests) == ROWS - 1
  known.forget()
  assert not known.requests


@pytest.mark.parametrize("num", [1, 9])  # fewer entries than candidates, and more
def test_lists_show_what_their_items_are_shown_with(setting, num):
  models, params, prepared, expected = setting
  lists = _lists(num)
  found = np.asarray(creatives.list_creatives(models, params, prepared, jnp.asarray(lists)))
  own = np.take_along_axis(expected[:, None], np.maximum(lists, 0), -1)
  np.testing.assert_array_equal(found, np.where(lists >= 0, own, -1))
