"""How far the next-visit prompt follows what was learned beside the counts, chosen on a city's validation windows.

Training examples are the visits of the past, most of them by few users in bursts; the public windows give every user
one. Count-based floors have their weights tuned on these windows, so the generator may have one number of its own.
"""

from ega_jax.data import pipeline, windows
from ega_jax.models.ega_config import NEXT_VISITS
from ega_jax.systems.next_visits import accuracies, generated_ranks

SHARES = (1.0, 0.5, 0.25, 0.1, 0.03, 0.0)


def scaled(params, share):
  """Returns the params whose next-visit code logits and learned prior are `share` of what they were; counts stay."""
  generator = dict(params["generator"])
  shrink = lambda leaf: leaf.at[..., NEXT_VISITS].multiply(share)
  generator["poi_head"] = generator["poi_head"].at[NEXT_VISITS].multiply(share)
  prior = dict(generator["item_prior"])
  prior["heads"] = {key: shrink(leaf) for key, leaf in prior["heads"].items()}
  return {**params, "generator": {**generator, "item_prior": prior}}


def trusted(config, models, params):
  """Returns (`scaled` params, share) of the share with the highest acc@1 + acc@5 + acc@10 with and without the time.

  As they are, with share 1, where the city has no validation windows or the generator no item prior.
  """
  columns = pipeline.read_next_poi(config.data, "validation") if models.generator.config.item_prior else None
  if columns is None or not len(columns["row"]):
    return params, 1.0
  known = columns, windows.without_target_time(columns)

  def value(share):
    tried = scaled(params, share)
    return sum(sum(accuracies(generated_ranks(models, tried, one)).values()) for one in known)

  best = max(SHARES, key=value)
  return scaled(params, best), best
