"""Served systems: a parameter tree -> allocate(batch, bids) -> Slate, and payment rules over it."""

__all__ = [
  "distinct",
  "ega",
  "generation",
  "merge",
  "payment",
  "pricing",
]
