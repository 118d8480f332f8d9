"""EGA's models: generator, reward model, payment network, the cascade's ranker; and networks that are auctions. The
modules are imported by name."""

__all__ = [
  "calibration",
  "candidate_encoder",
  "ega",
  "features",
  "payment",
  "ranker",
  "regret_net",
  "reward",
]
