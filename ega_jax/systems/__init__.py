"""Served systems: a parameter tree -> allocate(batch, bids) -> Slate, and payment rules over it."""
