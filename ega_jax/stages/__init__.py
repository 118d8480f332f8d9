"""EGA's stages of training: each module builds one `Stage` from a config; `recipe` puts them in order. Beside them what
trains auctions alone: `additive_auction`, `market_payment`."""

__all__ = [
  "additive_auction",
  "align",
  "batches",
  "defaults",
  "habits",
  "market",
  "market_payment",
  "payment",
  "policy",
  "pretrain",
  "ranges",
  "ranker",
  "recipe",
  "reward",
  "tokenizer",
  "trust",
]
