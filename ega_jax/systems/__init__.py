"""Served systems: a parameter tree -> allocate(batch, bids) -> Slate, and payment rules over it."""

__all__ = [
  "balance",
  "choice",
  "creatives",
  "distinct",
  "ega",
  "generation",
  "kept",
  "market_payment",
  "merge",
  "next_visits",
  "payment",
  "pricing",
  "probabilities",
  "profiles",
  "rows",
]
