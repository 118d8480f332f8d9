"""EGA's stages of training: each module builds one `Stage` from a config; `recipe` puts them in order."""

__all__ = [
  "batches",
  "defaults",
  "market",
  "payment",
  "policy",
  "pretrain",
  "ranker",
  "recipe",
  "reward",
  "tokenizer",
]
