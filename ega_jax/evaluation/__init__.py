"""What is reported: figures of slates, audits of incentives, equilibria, intervals, tables and plots.

The modules are imported by name. This package and data are the only ones that may read the truth.
"""

__all__ = [
  "additive_auction",
  "assessment",
  "auction_plots",
  "audit",
  "audit_views",
  "bootstrap",
  "comparison",
  "equilibrium",
  "flops",
  "kept_rows",
  "lineup",
  "load",
  "market",
  "next_poi",
  "next_poi_model",
  "oracle",
  "over_seeds",
  "payments",
  "plots",
  "ranking",
  "report",
  "reward_quality",
  "sections",
  "selection",
  "snips",
  "systems",
  "tables",
]
