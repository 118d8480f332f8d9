"""From code logits to lists: legality and bids per step, beam search, whole lists. The modules are imported by name."""

__all__ = [
  "beam",
  "constraints",
  "lists",
  "neighbours",
  "prior",
  "scores",
  "slate",
  "slots",
]
