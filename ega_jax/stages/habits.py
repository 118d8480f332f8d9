"""The weights of a user's own visits (`models/visit_counts.py`), tuned on a city's public windows.

They are few, and the visits that training examples come from are not alike those of a window (few users' bursts against
one window a user), so that gradients on examples find other weights than windows want. Floors are tuned the same way.
"""

import jax.numpy as jnp
import numpy as np

from ega_jax.data import pipeline, windows
from ega_jax.models.visit_counts import NAMES
from ega_jax.systems.next_visits import accuracies, counted_ranks

FACTORS = (0.3, 0.6, 1.0, 1.7, 3.0)  # of START
ROUNDS = 2  # of the coordinate search
SPLITS = ("train", "validation")  # windows of the past, more of them, and those that are most like what comes


def known_windows(config):
  """Returns {split: window columns} of the SPLITS that the city has; neither is of the test."""
  found = {split: pipeline.read_next_poi(config.data, split) for split in SPLITS}
  return {split: columns for split, columns in found.items() if columns is not None and len(columns["row"])}


def tuned(config, params):
  """Returns the params with the `visit_weights` of the highest acc@1 + acc@5 + acc@10, the mean of the splits'.

  As they are where the city has no windows, or the generator no item prior.
  """
  splits = known_windows(config)
  if not splits or "item_prior" not in params["generator"]:
    return params
  offsets = np.zeros((2, len(NAMES)), np.float32)
  for known, seen in enumerate((windows.without_target_time, lambda columns: columns)):
    columns = [seen(one) for one in splits.values()]
    offsets = _search(params, columns, offsets, known)
  return with_weights(params, offsets)


def _search(params, columns, offsets, known):
  """Returns offsets with row `known` set by coordinate search."""

  def value(offsets):
    found = [accuracies(counted_ranks(with_weights(params, offsets), one)) for one in columns]
    return float(np.mean([sum(one.values()) for one in found]))

  best = value(offsets)
  for name in NAMES * ROUNDS:
    for factor in FACTORS:
      tried = offsets.copy()
      tried[known, NAMES.index(name)] = np.log(factor)
      if (found := value(tried)) > best:
        best, offsets = found, tried
  return offsets


def with_weights(params, offsets):
  """Returns the params whose visit weights are `offsets` f[2, W]."""
  prior = dict(params["generator"]["item_prior"], visit_weights=jnp.asarray(offsets, jnp.float32))
  return {**params, "generator": {**params["generator"], "item_prior": prior}}
