"""What decoding needs to know besides the model: `ListConfig`, the `Decoder` interface, and splitting bid profiles when
they do not fit.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.types import Lists

TOKEN_BIDS = ("max", "mean", "expected")
COLLISIONS = ("suffix", "bucket")
LOWEST_BID = 0.2  # in units of bid_scale: what weighs less in proposals weighs nothing against beta


class Decoder(NamedTuple):
  """A model as beam search sees it.

  init: `init(U) -> cache`, leaves [layers, B, U, ...]. step: `step(cache, token i32[B, U], position) -> (rows, states
  f[B, U, d], logits f[B, U, V])`; `position` counts codes from 0, `token` is the code chosen at the position before (-1
  at position 0, the beginning of the list). The cache holds the positions before, and `write(cache, rows, position) ->
  cache` adds this one, leaves of rows being [B, U, ...]. A step may be given some of the slots alone.
  """

  init: Any
  step: Any
  write: Any


@dataclasses.dataclass(frozen=True)
class ListConfig:
  """How lists are generated (EGA Eq. 21-24). The four numbers of the token weight are pytree leaves: sweeping them
  compiles nothing anew; the rest is static.

  A token's weight is w = (bid / bid_scale)^alpha + beta (Eq. 21); an organic item's is `organic_beta` (None: beta).
  `token_bid`: the "max" (paper) or "mean" bid of the legal items under a token, or their "expected" weight by the item
  prior. `bid_cell`: see `proposal_bids`; 1 is the paper's. `max_prefixes`: slots that the bid profiles of one request
  share (0: num_lists). `collision`: "suffix" (paths are unique) or "bucket" (a path shared by several items goes to the
  highest bid^alpha * exp(prior)).
  """

  list_length: int = 10
  num_lists: int = 64
  alpha: Any = 1.2
  beta: Any = 2.0
  bid_scale: Any = 1.0
  organic_beta: Any = None
  token_bid: str = "max"
  bid_cell: float = 1.0
  max_prefixes: int = 0
  collision: str = "suffix"

  def __post_init__(self):
    for name in ("list_length", "num_lists"):
      if getattr(self, name) < 1:
        raise ValueError(f"ListConfig.{name} is {getattr(self, name)}; it must be at least 1")
    if not self.bid_cell >= 1:
      raise ValueError(f"ListConfig.bid_cell is {self.bid_cell}; it must be at least 1, which leaves bids as they are")
    if self.token_bid not in TOKEN_BIDS:
      raise ValueError(f"ListConfig.token_bid is {self.token_bid!r}; allowed: {', '.join(TOKEN_BIDS)}")
    if self.collision not in COLLISIONS:
      raise ValueError(f"ListConfig.collision is {self.collision!r}; allowed: {', '.join(COLLISIONS)}")
    if self.max_prefixes and self.max_prefixes < self.num_lists:
      raise ValueError(
        f"ListConfig.max_prefixes is {self.max_prefixes}; it must be 0 or at least num_lists = {self.num_lists}"
      )

  @property
  def num_slots(self):
    """Prefixes decoded side by side."""
    return self.max_prefixes or self.num_lists


jax.tree_util.register_dataclass(
  ListConfig,
  data_fields=["alpha", "beta", "bid_scale", "organic_beta"],
  meta_fields=["list_length", "num_lists", "token_bid", "bid_cell", "max_prefixes", "collision"],
)


def proposal_bids(bids, config: ListConfig, charge=None):
  """Returns f[...]: bids as the token weights see them, the nearest power of `bid_cell` in units of `bid_scale`, or 0
  where that is under LOWEST_BID (our decision), less `charge` f[...], at least 0; None stays None.

  Lists are proposed from these, and chosen by the bids themselves. While a bid moves inside a cell the proposals stand
  still, so that the choice among them, an affine maximiser, gives its ad only more clicks for more: an own-bid curve
  can fall at the borders of cells alone. The grid is absolute, no report moves it.
  """
  if bids is None:
    return bids
  rounded = _nearest_cell(bids, config)
  return rounded if charge is None else jnp.maximum(rounded - charge, 0.0)


def _nearest_cell(bids, config):
  if config.bid_cell == 1:
    return bids
  ratio = jnp.log(jnp.float32(config.bid_cell))
  positive = bids > 0
  power = jnp.round(jnp.log(jnp.where(positive, bids, 1.0) / config.bid_scale) / ratio)
  near = jnp.exp(power * ratio)
  return jnp.where(positive & (near >= LOWEST_BID), near * config.bid_scale, 0.0)


def take_rows(values, index):
  """Returns values[b, index[b, ...]]: rows of `values` [B, U, ...] by `index` i32[B, ...]."""
  return jax.vmap(lambda rows, i: rows.at[i].get(mode="promise_in_bounds"))(values, index)


def _concatenate(parts, sizes):
  """Returns one `Lists` whose profiles are those of `parts`; parts[j] has sizes[j] entries, of one or more profiles
  each.
  """
  offset, index, log_z = 0, [], []
  for part, size in zip(parts, sizes, strict=True):
    shape = (part.index.shape[0], size, -1, part.index.shape[-1])
    index.append((part.index + offset).reshape(shape))
    log_z.append(part.log_z.reshape(shape))
    offset += part.items.shape[1]
  flat = (index[0].shape[0], -1, index[0].shape[-1])
  return Lists(
    items=jnp.concatenate([part.items for part in parts], 1),
    index=jnp.concatenate(index, 1).reshape(flat),
    log_z=jnp.concatenate(log_z, 1).reshape(flat),
    overflow=jnp.any(jnp.stack([part.overflow for part in parts]), axis=0),
  )


def allocate_in_chunks(generate, *profiles):
  """Returns `generate(*profiles)` with no request overflowing: while one does, the profiles are halved and generated
  again.

  Host-side. profiles: arrays [B, G, ...] split together along their second axis, as bids f[B, G, C] of `generate_lists`
  or ads i32[B, A] and nodes f[B, A, G] of `own_bid_sweep`. A list found by several parts has several rows in `items`.
  Raises ValueError if a single entry overflows (in a sweep: repeat the ad, with fewer nodes each).
  """
  lists = generate(*profiles)
  if not bool(np.any(jax.device_get(lists.overflow))):
    return lists
  size = profiles[0].shape[1]
  if size == 1:
    raise ValueError(
      f"a single entry of the profiles needs more than {lists.items.shape[1]} distinct prefixes: "
      "raise ListConfig.max_prefixes"
    )
  sizes = [(size + 1) // 2, size // 2]
  halves = [[x[:, : sizes[0]] for x in profiles], [x[:, sizes[0] :] for x in profiles]]
  return _concatenate([allocate_in_chunks(generate, *half) for half in halves], sizes)
