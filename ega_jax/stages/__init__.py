"""EGA's stages of training: each module builds one `Stage` from a config; `recipe` puts them in order. Beside them what
trains auctions alone: `additive_auction`, `market_payment`."""

__all__ = [
  "additive_auction",
  "batches",
  "defaults",
  "market",
  "market_payment",
  "payment",
  "policy",
  "pretrain",
  "ranker",
  "recipe",
  "reward",
  "tokenizer",
]
