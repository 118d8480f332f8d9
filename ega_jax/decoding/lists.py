"""What decoding needs to know besides the model: `ListConfig`, the `Decoder` interface, and splitting bid profiles when they do not fit."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.types import Lists

TOKEN_BIDS = ("max", "mean")
COLLISIONS = ("suffix", "bucket")


class Decoder(NamedTuple):
  """A model as beam search sees it.

  init: `init(U) -> cache`, leaves [layers, B, U, ...]. step: `step(cache, token i32[B, U], position) -> (cache, states f[B, U, d], logits f[B, U, V])`;
  `position` counts codes from 0, `token` is the code chosen at the position before (-1 at position 0, the beginning of the list).
  """

  init: Any
  step: Any


@dataclasses.dataclass(frozen=True)
class ListConfig:
  """How lists are generated (EGA section 3.4). The four numbers of the token weight are pytree leaves: sweeping them compiles nothing anew; the rest is static.

  A token's weight is w = (bid / bid_scale)^alpha + beta (Eq. 21); an organic item's is `organic_beta` (None: beta), the knob of the ad share. `token_bid`: the "max"
  (paper) or "mean" over the legal items under a token. `max_prefixes`: slots that the bid profiles of one request share (0: num_lists). `collision`: "suffix" (paths are
  unique) or "bucket" (a path shared by several items goes to the highest bid^alpha * exp(prior)).
  """

  list_length: int = 10
  num_lists: int = 64
  alpha: Any = 1.2
  beta: Any = 2.0
  bid_scale: Any = 1.0
  organic_beta: Any = None
  token_bid: str = "max"
  max_prefixes: int = 0
  collision: str = "suffix"

  def __post_init__(self):
    for name in ("list_length", "num_lists"):
      if getattr(self, name) < 1:
        raise ValueError(f"ListConfig.{name} is {getattr(self, name)}; it must be at least 1")
    if self.token_bid not in TOKEN_BIDS:
      raise ValueError(f"ListConfig.token_bid is {self.token_bid!r}; allowed: {', '.join(TOKEN_BIDS)}")
    if self.collision not in COLLISIONS:
      raise ValueError(f"ListConfig.collision is {self.collision!r}; allowed: {', '.join(COLLISIONS)}")
    if self.max_prefixes and self.max_prefixes < self.num_lists:
      raise ValueError(f"ListConfig.max_prefixes is {self.max_prefixes}; it must be 0 or at least num_lists = {self.num_lists}")

  @property
  def num_slots(self):
    """Prefixes decoded side by side."""
    return self.max_prefixes or self.num_lists


jax.tree_util.register_dataclass(
  ListConfig,
  data_fields=["alpha", "beta", "bid_scale", "organic_beta"],
  meta_fields=["list_length", "num_lists", "token_bid", "max_prefixes", "collision"],
)


def take_rows(values, index):
  """Returns values[b, index[b, ...]]: rows of `values` [B, U, ...] by `index` i32[B, ...]."""
  return jax.vmap(lambda rows, i: rows[i])(values, index)


def concatenate_lists(parts, profile_shapes, axis):
  """Returns one `Lists` whose profiles are those of `parts`, joined along profile axis `axis` (1-based, as in the arrays that were split).

  `parts[j].index` is [B, prod(profile_shapes[j]), S]. Rows of `items` are stacked: a list found by two parts has two rows.
  """
  offset, index, log_z = 0, [], []
  for part, shape in zip(parts, profile_shapes, strict=True):
    batch, _, num_lists = part.index.shape
    index.append((part.index + offset).reshape(batch, *shape, num_lists))
    log_z.append(part.log_z.reshape(batch, *shape, num_lists))
    offset += part.items.shape[1]
  index, log_z = jnp.concatenate(index, axis), jnp.concatenate(log_z, axis)
  flat = (index.shape[0], -1, index.shape[-1])
  overflow = jnp.any(jnp.stack([part.overflow for part in parts]), axis=0)
  return Lists(jnp.concatenate([part.items for part in parts], 1), index.reshape(flat), log_z.reshape(flat), overflow)


def allocate_in_chunks(generate, profiles, axis=1):
  """Returns `generate(profiles)` with no request overflowing: while one does, the profiles are halved along `axis` and generated again.

  Host-side. `generate` maps `profiles` to Lists: bids f[B, G, C] with axis=1 (`generate_lists`), or bid nodes f[B, A, G] with axis=1 or 2 (`own_bid_sweep`, when its other
  arguments do not depend on the split axis). Raises ValueError if a single profile along `axis` still overflows.
  """
  lists = generate(profiles)
  if not bool(np.any(jax.device_get(lists.overflow))):
    return lists
  size = profiles.shape[axis]
  if size == 1:
    raise ValueError(f"one entry along axis {axis} of profiles {profiles.shape} needs more than {lists.items.shape[1]} prefixes: raise ListConfig.max_prefixes")
  halves = jnp.split(profiles, [(size + 1) // 2], axis)
  parts = [allocate_in_chunks(generate, half, axis) for half in halves]
  return concatenate_lists(parts, [half.shape[1 : axis + 1] for half in halves], axis)
