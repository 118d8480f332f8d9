"""What EGA is compared with: the multi-stage cascade, its list proposals, and list generation without bids."""

__all__ = [
  "cascade",
  "list_generation",
]
