"""The generator's next-POI accuracy on a city's public windows, beside count-based floors of the same information."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.data import pipeline, windows
from ega_jax.decoding.beam import generate_lists
from ega_jax.decoding.lists import ListConfig
from ega_jax.evaluation import next_poi
from ega_jax.models.ega import NEXT_VISITS, hide_time
from ega_jax.stages import recipe
from ega_jax.stages.pretrain import catalogue_table, visit_prior
from ega_jax.systems import generation
from ega_jax.types import Request

NUM_BEAMS = 64


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
  """Returns i64[W]: the rank at which each window's target was generated, NUM_BEAMS where it was not; 0 is first."""
  count, ranks = len(columns["row"]), []
  padded = np.minimum(np.arange(-(-count // chunk) * chunk), count - 1)
  for start in range(0, len(padded), chunk):
    rows = padded[start : start + chunk]
    request = Request(**{name: columns[name][rows] for name in Request.__dataclass_fields__})
    request = hide_time(request, ~columns["hour_known"][rows])
    hit = np.asarray(_generate(models, params, request)) == columns["target_poi"][rows, :1]
    ranks.append(np.where(hit.any(1), hit.argmax(1), NUM_BEAMS))
  return np.concatenate(ranks)[:count]


def compare(config, params):
  """Returns {"without_time" | "with_time": {floor, model: accuracies, difference: intervals}}, None without windows."""
  floors = next_poi.floors(config.data)
  if floors is None:
    return None
  models = recipe.build_models(config, recipe.data_sizes(config.data))
  popularity = pipeline.read_catalog(config.data).poi_popularity
  test = pipeline.read_next_poi(config.data, "test")
  found = {}
  for name, seen in (("without_time", windows.without_target_time), ("with_time", lambda columns: columns)):
    columns = seen(test)
    ranks = generated_ranks(models, params, columns)
    weights = next_poi.FloorWeights(**floors[name]["weights"])
    floor = next_poi.floor_ranks(columns, popularity, weights)
    difference = next_poi.paired_comparison(ranks, floor, columns["user"])
    found[name] = {
      "windows": len(ranks),
      "floor": next_poi.accuracies(floor),
      "model": next_poi.accuracies(ranks),
      "difference": {key: [one.value, one.low, one.high] for key, one in difference.items()},
    }
  return found
