"""Columns that stages read, and the batches over them."""

import dataclasses

import numpy as np

from ega_jax.data.pipeline import read_split, train_batches
from ega_jax.types import Request

REQUEST = tuple(field.name for field in dataclasses.fields(Request))
LIST = ("shown_item", "shown_creative", "click", "creative_click", "conversion")


def logged(config, batch_size, columns, *, folds=None, salt=0, process=(0, 1)):
  """Returns a function of the earlier stages' params -> grain batches of the training split.

  Args:
    config: the experiment's config; its seed and `salt` order the examples.
    batch_size: of all processes. columns: names to read beside those of a request.
    folds: of the requests to train on; None: all.
    process: (index, count).
  """
  return lambda previous: train_batches(
    config.data, "train", batch_size, config.seed * 1000 + salt, columns=REQUEST + tuple(columns), folds=folds,
    process_index=process[0], process_count=process[1],
  )  # fmt: skip


def evenly(directory, split, columns, count, chunk):
  """Returns `columns` of at most `count` requests of a split (0: all), evenly spread, a multiple of `chunk` of them.

  At least one chunk: of a count below it there are more, in a split below it requests repeat.
  """
  total = len(read_split(directory, split, ("row",))["row"])
  count = max(min(count or total, total) // chunk, 1) * chunk
  return read_split(directory, split, columns, np.linspace(0, total - 1, count).astype(int))


def main_folds(config):
  """Returns the folds of training requests that models learn from."""
  return tuple(range(10 - config.reward.held_back_folds))


def held_back_folds(config):
  """Returns the folds kept for the second reward model, which judges choices on validation."""
  return tuple(range(10 - config.reward.held_back_folds, 10))
