"""Which numbers the settings of the recipe may be: what lies outside would fail, or learn nothing, hours later."""

import fnmatch
import math

from ega_jax.training.checkpoint import flat

# (pattern of keys, least, most[, which ends are left out: "(" the least, ")" the most]); the first match holds. Keys
# that match nothing are an experiment's own; `mesh` is checked where devices are known.
RANGES = (
  ("seed", 0, 2**32 - 1),
  ("value_sigma", 0, 10, "("),
  ("*.steps", 1, math.inf),
  ("*.batch_size", 1, math.inf),
  ("*.learning_rate", 0, 1, "("),
  ("*.weight_decay", 0, 100),
  ("*dropout", 0, 1, ")"),
  ("*.drop_*", 0, 1),
  ("*.temperature", 0, 100, "("),
  ("*_weight", 0, 1e6),
  ("pretrain.full_gap", 0, 1e6),
  ("align.rounds", 0, math.inf),
  ("align.sharpness", 0, 1e6),
  ("policy.samples", 2, math.inf),
  ("policy.exchange_rate", 0, 1e6),
  ("policy.virtual_share", 0, 1),
  ("payment.multiplier*", 0, 1e9),
  ("payment.penalty", 0, 1e9),
  ("*.nodes", 3, math.inf),  # 0, and two of which the last is the largest
  ("lists.alpha", 0, 20),
  ("lists.beta", 0, 1e6),
  ("lists.bid_cell", 1, 1e3),
  ("payment.requests", 1, math.inf),
  ("evaluation.*requests", 0, math.inf),  # 0: all
  ("evaluation.unshown", 0, math.inf),
  ("evaluation.refinements", 0, math.inf),
  ("reward.held_back_folds", 0, 9),
  # Counts of things that there have to be.
  *((key, 1, math.inf) for key in ("list_length", "sweep_prefixes", "tokenizer.*", "model.history_items",
                                   "pretrain.targets", "reward.model.*", "align.moves", "payment.ads", "payment.values",
                                   "lists.num_lists", "evaluation.chunk")),
)  # fmt: skip


def check_ranges(config):
  """Raises ValueError naming the first number of a ConfigDict that is outside of its range, and the range."""
  for key, value in flat(config.to_dict()).items():
    if isinstance(value, bool) or not isinstance(value, int | float):
      continue
    found = range_of(key)
    if found is not None and not _holds(value, *found):
      raise ValueError(f"config.{key} is {value}; allowed: {_text(*found)}")


def range_of(key):
  """Returns (least, most[, open ends]) of a key "a.b", None if it has no range."""
  return next((rest for pattern, *rest in RANGES if fnmatch.fnmatchcase(key, pattern)), None)


def _holds(value, least, most, without=""):
  inside = (least < value if "(" in without else least <= value) and (value < most if ")" in without else value <= most)
  return inside and math.isfinite(value)


def _text(least, most, without=""):
  if most == math.inf:
    return f"{least:g} or more"
  return f"{'more than ' * ('(' in without)}{least:g} to {'less than ' * (')' in without)}{most:.10g}"
