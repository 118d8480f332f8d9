"""The generator as a next-POI recommender: its "next visits" prompt over the whole catalogue."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.decoding.beam import generate_lists
from ega_jax.decoding.lists import ListConfig
from ega_jax.models.ega_config import NEXT_VISITS
from ega_jax.models.encoder import hide_time
from ega_jax.models.visit_counts import visit_counts
from ega_jax.systems import generation
from ega_jax.types import CandidateTable, Request

NUM_BEAMS = 64
CUTOFFS = (1, 5, 10)


def catalogue_table(ids) -> CandidateTable:
  """Returns the whole catalogue as one table of leading size 1, nothing advertised: what a next visit may be."""
  count = ids.poi.shape[0]
  return CandidateTable(
    codes=ids.poi[None], valid=jnp.ones((1, count), bool), is_ad=jnp.zeros((1, count), bool),
    organic_rank=jnp.arange(count)[None],
  )  # fmt: skip


def visit_prior(models, params, memory, request):
  """Returns the item prior f32[B, P] of every POI as the next visit; None if the generator has none.

  Arguments as in `generation`.
  """
  shape = (request.user.shape[0], params["ids"].poi.shape[0])
  everything = jnp.broadcast_to(jnp.arange(shape[1]), shape)
  return generation.item_prior(models, params, memory, request, everything, task=NEXT_VISITS)


@functools.partial(jax.jit, static_argnames=("models",))
def _generate(models, params, request):
  """Returns POIs i32[B, S], most probable next visit first, by beam search over the whole catalogue."""
  memory = generation.apply(
    models.generator, params["generator"], "encode", request, params["ids"], params["catalog"], visits_only=True
  )
  table = catalogue_table(params["ids"])
  # Any POI may come first: organic items would have to come in order, ads need not.
  table = dataclasses.replace(table, is_ad=jnp.ones_like(table.valid))
  batch = request.user.shape[0]
  table = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, *leaf.shape[1:])), table)
  prior = visit_prior(models, params, memory, request)
  decoder = generation.decoder(models, params, memory, table.codes.shape[-1], NEXT_VISITS)
  found = generate_lists(decoder, table, None, prior, ListConfig(list_length=1, num_lists=NUM_BEAMS))
  return jax.vmap(lambda items, index: items[index, 0])(found.items, found.index[:, 0])


def generated_ranks(models, params, columns, chunk=16):
  """Returns i64[W]: the rank at which each window's target was generated, NUM_BEAMS where it was not; 0 is first.

  Args: models, params: as in `generation`; columns: of data.windows, [W, ...]; a window whose hour_known is False is
    decoded without its time; chunk: windows decoded at once.
  """
  ranks = []
  for rows, request in _requests(columns, chunk):
    hit = np.asarray(_generate(models, params, request)) == columns["target_poi"][rows, :1]
    ranks.append(np.where(hit.any(1), hit.argmax(1), NUM_BEAMS))
  return np.concatenate(ranks)[: len(columns["row"])]


def counted_ranks(params, columns, chunk=512):
  """Returns i64[W]: the rank of each window's target by `visit_counts` alone; 0 is first, ties go to the smaller id.

  Args: params: with the generator's item prior; columns, chunk: as in `generated_ranks`.
  """
  offsets = params["generator"]["item_prior"]["visit_weights"]
  ranks = [
    target_ranks(np.asarray(_counts(request, params["catalog"], offsets)), columns["target_poi"][rows, 0])
    for rows, request in _requests(columns, chunk)
  ]
  return np.concatenate(ranks)[: len(columns["row"])]


@jax.jit
def _counts(request, catalog, offsets):
  size = catalog.poi_category.shape[0]
  pois = jnp.broadcast_to(jnp.arange(size), (request.user.shape[0], size))
  return visit_counts(request, catalog, pois, offsets)


def target_ranks(scores, target):
  """Returns i64[W]: how many POIs of scores f[W, P] score above the target i[W]; ties go to the smaller id.

  On the host: a compiled comparison may compute the target's own score twice, and differently.
  """
  own = np.take_along_axis(scores, target[:, None], 1)
  smaller = np.arange(scores.shape[1]) < target[:, None]
  return ((scores > own) | ((scores == own) & smaller)).sum(1)


def _requests(columns, chunk):
  """Yields (rows, Request) of all windows in chunks of one size, the last filled up with the last window."""
  count = len(columns["row"])
  chunk = min(chunk, count)
  padded = np.minimum(np.arange(-(-count // chunk) * chunk), count - 1)
  for start in range(0, len(padded), chunk):
    rows = padded[start : start + chunk]
    request = Request(**{name: columns[name][rows] for name in Request.__dataclass_fields__})
    yield rows, jax.tree.map(jnp.asarray, hide_time(request, ~columns["hour_known"][rows]))


def accuracies(ranks):
  """Returns {"acc@1", "acc@5", "acc@10"}: shares of windows whose target is among the first k."""
  return {f"acc@{k}": float(np.mean(ranks < k)) for k in CUTOFFS}
