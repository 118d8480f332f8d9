"""Marketplaces, real check-ins, logs, prepared records and batches.

The modules are imported by name. `world` is the truth: only this package and evaluation may import it.
"""

__all__ = [
  "arrays",
  "behaviour",
  "checkins",
  "examples",
  "history",
  "latents",
  "logging_policy",
  "market_config",
  "market_prices",
  "marketplace",
  "observed",
  "pipeline",
  "records",
  "requests",
  "sanity",
  "successors",
  "windows",
  "world",
]
