"""Reading candidates' columns at the items of lists, on the host."""

import numpy as np


def at_items(values, items, absent=0):
  """Returns values[B, C] read at items i[B, ...]: [B, ...], `absent` where the item is -1."""
  values, items = np.asarray(values), np.asarray(items)
  flat = np.maximum(items, 0).reshape(items.shape[0], -1)
  return np.where(items >= 0, np.take_along_axis(values, flat, axis=1).reshape(items.shape), absent)


def own_of(slate_values, items, ads):
  """Returns f[B, A, G]: what ads i[B, A] have in the slates of their curves, [B, A, G, K] per slot; 0 if unshown."""
  ads = np.asarray(ads)[..., None, None]
  return np.where((np.asarray(items) == ads) & (ads >= 0), slate_values, 0).sum(-1)
