"""Auctions as functions of bids: exact mechanisms, value distributions, regret audits, payment integrals.

Everything is written over `bids -> types.Outcome`, so that a brute-force optimum, a trained generator, a cascade and a
user's own function are audited by the same code. Exact parts are numpy in float64; `bidding` is jax.
"""

from ega_jax.auction import (
  allocation,
  audit,
  bidding,
  envelope,
  equilibrium,
  least_regret,
  market,
  mechanisms,
  menu,
  metrics,
  regret,
  values,
)

__all__ = [
  "allocation", "audit", "bidding", "envelope", "equilibrium", "least_regret", "market", "mechanisms", "menu",
  "metrics", "regret", "values",
]
