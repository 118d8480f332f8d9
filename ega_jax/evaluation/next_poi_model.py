"""The generator's next-POI accuracy on a city's public windows, beside count-based floors of the same information."""

from ega_jax.data import pipeline, windows
from ega_jax.evaluation import next_poi
from ega_jax.stages import recipe
from ega_jax.systems.next_visits import accuracies, generated_ranks


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
      "floor": accuracies(floor),
      "model": accuracies(ranks),
      "difference": {key: [one.value, one.low, one.high] for key, one in difference.items()},
    }
  return found
