"""Ranks of generated next POIs: those of the whole catalogue's probabilities, blind to a time that is not known."""

import jax
import jax.numpy as jnp
import numpy as np

import tiny_run
from ega_jax.decoding.lists import ListConfig
from ega_jax.decoding.slate import list_log_z
from ega_jax.models.ega_config import NEXT_VISITS
from ega_jax.models.encoder import hide_time
from ega_jax.models.visit_counts import visit_counts
from ega_jax.systems import generation, next_visits
from ega_jax.systems.next_visits import catalogue_table, visit_prior
from ega_jax.types import Request

ROWS = 4


def _columns():
  batch = tiny_run.requests_of_test()
  columns = {name: np.asarray(batch[name])[:ROWS] for name in (*Request.__dataclass_fields__, "row")}
  pois = tiny_run.trained()[1]["pretrain"]["ids"].poi.shape[0]
  targets = np.random.default_rng(0).integers(0, pois, (ROWS, 1))
  return columns | {"target_poi": targets, "hour_known": np.arange(ROWS) % 2 == 0}


def _log_probabilities(models, params, request):
  """log P of every POI as the next visit, f[B, P], each decoded on its own."""
  memory = generation.apply(
    models.generator, params["generator"], "encode", request, params["ids"], params["catalog"], visits_only=True
  )
  table, prior = catalogue_table(params["ids"]), visit_prior(models, params, memory, request)
  codes = jnp.broadcast_to(params["ids"].poi, (ROWS, *params["ids"].poi.shape))[:, :, None]
  logits, _ = generation.apply(models.generator, params["generator"], "decode", memory, codes, NEXT_VISITS)
  every = jnp.broadcast_to(jnp.arange(codes.shape[1]), codes.shape[:2])
  return list_log_z(logits[:, :, 0], table, every, None, prior, ListConfig(), reuse=True)


def test_ranks_are_those_of_the_probabilities_without_an_unknown_time():
  models, params, columns = tiny_run.models(), tiny_run.trained()[1]["pretrain"], _columns()
  request = Request(**{name: jnp.asarray(columns[name]) for name in Request.__dataclass_fields__})
  hidden = hide_time(request, jnp.asarray(~columns["hour_known"]))
  log_p = np.asarray(jax.jit(lambda params, request: _log_probabilities(models, params, request))(params, hidden))
  np.testing.assert_allclose(np.exp(log_p).sum(-1), 1.0, rtol=1e-3)
  found = next_visits.generated_ranks(models, params, columns, chunk=ROWS)
  best = np.argsort(-log_p, axis=1)[:, :2]  # certainly generated, whatever the beam drops later
  for place in (0, 1):
    again = next_visits.generated_ranks(models, params, columns | {"target_poi": best[:, place:][:, :1]}, chunk=ROWS)
    np.testing.assert_array_equal(again, place)
  for row, target in enumerate(columns["target_poi"][:, 0]):
    assert found[row] <= (log_p[row] > log_p[row, target]).sum() or found[row] == next_visits.NUM_BEAMS


def test_counted_ranks_are_those_of_the_counts():
  params, columns = tiny_run.trained()[1]["pretrain"], _columns()
  request = Request(**{name: jnp.asarray(columns[name]) for name in Request.__dataclass_fields__})
  hidden = hide_time(request, jnp.asarray(~columns["hour_known"]))
  pois = np.broadcast_to(np.arange(params["ids"].poi.shape[0]), (ROWS, params["ids"].poi.shape[0]))
  weights = params["generator"]["item_prior"]["visit_weights"]
  order = np.argsort(-np.asarray(visit_counts(hidden, params["catalog"], pois, weights)), axis=1, kind="stable")
  for rank in (0, 1, 5, order.shape[1] - 1):
    columns["target_poi"] = order[:, rank, None]
    for chunk in (3, ROWS):
      np.testing.assert_array_equal(next_visits.counted_ranks(params, columns, chunk), rank)


def test_an_unknown_hour_is_not_read(monkeypatch):
  columns, seen = _columns(), []
  monkeypatch.setattr(
    next_visits, "_generate", lambda models, params, request: seen.append(request) or np.zeros((ROWS, 2), int)
  )
  next_visits.generated_ranks(None, None, columns, chunk=ROWS)
  np.testing.assert_array_equal(seen[0].hour, np.where(columns["hour_known"], columns["hour"], -1))
