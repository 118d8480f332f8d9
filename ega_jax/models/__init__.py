"""EGA's models: generator, reward model, payment network, the cascade's ranker; and networks that are auctions. The
modules are imported by name."""

__all__ = [
  "calibration",
  "candidate_encoder",
  "ega",
  "ega_config",
  "encoder",
  "features",
  "item_prior",
  "list_prior",
  "pairs",
  "payment",
  "poi_decoder",
  "ranker",
  "regret_net",
  "reward",
  "visit_counts",
]
