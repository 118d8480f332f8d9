"""Marketplaces, real check-ins, logs, prepared records and batches.

The modules are imported by name. `world` is the truth: only this package and evaluation may import it.
"""

__all__ = [
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
  "sanity",
  "successors",
  "windows",
  "world",
]
