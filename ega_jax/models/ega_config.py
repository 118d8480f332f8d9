"""Sizes of the generator, their presets, and the two tasks that share its weights."""

import dataclasses
from typing import Any

import jax.numpy as jnp

NEXT_VISITS, LIST = 0, 1
NUM_TASKS = 2


@dataclasses.dataclass(frozen=True)
class EGAConfig:
  """Sizes of the generator. Vocabularies count the codes of the widest level, suffix included."""

  num_pois: int
  num_users: int
  poi_levels: int = 4
  poi_vocabulary: int = 64
  creative_levels: int = 3
  creative_vocabulary: int = 64
  width: int = 64
  num_layers: int = 2
  num_heads: int = 4
  mlp_width: int = 192
  decoder_kv_heads: int = 1  # shared by the decoder's query heads, as the cache is what beam search moves; 0: unshared
  history_items: int = 20
  max_items: int = 10  # longest sequence of POIs that is decoded
  cross_attention: str = "events"  # "events": one memory state per event; "tokens": the paper's, one per code
  item_prior: bool = True
  prior_width: int = 32
  list_prior: bool = True  # with item_prior: what the list so far says of the others; memory [candidates, candidates]
  creative_context: str = "item"  # what a creative follows: its POI alone, or the paper's "prefix", the list so far
  creative_chain: bool = True  # False: the codes are predicted independently of each other (the paper's ablation)
  dropout: float = 0.1
  user_dropout: float = 0.1
  click_dropout: float = 0.1  # share of training rows whose clicks are hidden, so that visits alone suffice
  dtype: Any = jnp.float32
  remat: bool = False  # recompute each block in the backward pass: activations of one block at a time, 1/3 more flops

  def __post_init__(self):
    if self.cross_attention not in ("events", "tokens"):
      raise ValueError(f"cross_attention is {self.cross_attention!r}; allowed: 'events', 'tokens'")
    if self.creative_context not in ("item", "prefix"):
      raise ValueError(f"creative_context is {self.creative_context!r}; allowed: 'item', 'prefix'")


def tiny(**sizes):
  """Returns the preset of tests: width 32, one block."""
  return EGAConfig(**{"width": 32, "num_layers": 1, "num_heads": 2, "mlp_width": 64, "history_items": 8, **sizes})


def small(**sizes):
  """Returns the preset of two CPU cores: width 64, two blocks, 20 events of history (the recipe says 12)."""
  return EGAConfig(**sizes)


def paper(**sizes):
  """Returns the paper's sizes: 3 blocks, 3 codes of 1024 (and a suffix), K = 10, 256 tokens (32 events) of history.

  Widths are not reported; ours are those of a common encoder-decoder of this depth (512, 8 heads of 64, 4 x 512).
  """
  reported = {"num_layers": 3, "poi_vocabulary": 1024, "creative_vocabulary": 1024, "history_items": 32}
  ours = {"width": 512, "num_heads": 8, "mlp_width": 2048, "decoder_kv_heads": 0, "prior_width": 64}
  ours |= {"cross_attention": "tokens", "creative_context": "prefix", "list_prior": False}
  return EGAConfig(**{**reported, **ours, **sizes})
