"""Parts of networks with logical axis names; no part knows a model. The modules are imported by name."""

__all__ = [
  "attention",
  "embedding",
  "hstu",
  "linear",
  "multi_token",
  "transformer",
]
