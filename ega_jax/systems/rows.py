"""Reading candidates' columns at the items of lists, on the host."""

import numpy as np


def at_items(values, items, absent=0):
  """Returns values[B, C] read at items i[B, ...]: [B, ...], `absent` where the item is -1."""
  values, items = np.asarray(values), np.asarray(items)
  flat = np.maximum(items, 0).reshape(items.shape[0], -1)
  return np.where(items >= 0, np.take_along_axis(values, flat, axis=1).reshape(items.shape), absent)
