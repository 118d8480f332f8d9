"""Runs exact auction mechanisms on a market and prints revenue, welfare, regret and participation of each.

python -m launch.auction --market=FILE.json [--mechanisms=myerson,vcg,gsp,first_price] [--num_samples=200000] [--seed=0]
  [--reserve=R] [--range_size=32] [--output=FILE.json]
A market, with two slots and two ads:
  {"slots": 2, "quality": [0.6, 0.5], "position": [1.0, 0.6],
   "values": {"distribution": "uniform", "low": 0, "high": 1}}
"values" is one distribution (also "exponential" of "mean", "lognormal" of "mu" and "sigma") or a list of one per ad.
Optional: "name", "bids" (profiles), and "similarity" (ads x ads) with "externality" {"above", "below", "decay"}:
`ega_jax/auction/market.py` has the formula.
Mechanisms: myerson, vcg, vcg_range, gsp, gsp_reserve, first_price, separable_myerson. A market with "bids" has just
these profiles evaluated, unless --num_samples is given. Exit codes: 0, 1 the run failed, 2 bad input.
"""

import math

import numpy as np
from absl import flags

from ega_jax.auction import audit as audit_lib
from ega_jax.auction import market as market_lib
from ega_jax.auction import mechanisms as mechanisms_lib
from launch import binary

DEFAULT_SAMPLES = 200_000
COLUMNS = {
  "revenue": "{:.5f}", "revenue_stderr": "{:.5f}", "virtual_surplus": "{:.5f}", "welfare": "{:.5f}", "clicks": "{:.4f}",
  "mean_regret": "{:.1e}", "max_regret": "{:.1e}", "regret_over_payment": "{:.2%}", "psi": "{:.4f}", "i_sic": "{:.4f}",
  "non_monotone": "{:.2%}", "payment_identity_residual": "{:.1e}", "ir_violations": "{}",
}


def define_flags():
  """Defines the flags; not on import, so that tests can import several binaries."""
  flags.DEFINE_string("market", None, "Market specification, JSON.", required=True)
  flags.DEFINE_string("mechanisms", "myerson,vcg,gsp,first_price", f"Of {', '.join(mechanisms_lib.NAMES)}.")
  flags.DEFINE_integer("num_samples", None, f"Value profiles to draw. Default: {DEFAULT_SAMPLES}, or 0 with bids.")
  flags.DEFINE_integer("seed", 0, "Same seed, same values, for every mechanism.", lower_bound=0)
  flags.DEFINE_float("reserve", None, "Per click, of gsp and gsp_reserve. Default: 0, and each ad's Myerson reserve.")
  flags.DEFINE_integer("range_size", 32, "Full-length lists in vcg_range.", lower_bound=1)
  flags.DEFINE_string("output", "", "JSON report.")


def main(overrides):
  """Returns the exit code."""
  values = flags.FLAGS
  if overrides:
    raise ValueError(f"argument {overrides[0]!r} is unknown")
  binary.check_output(values.output)
  names = [name.strip() for name in values.mechanisms.split(",") if name.strip()]
  check(names, values.num_samples, values.reserve)
  market = market_lib.read(values.market)
  report = evaluate(market, names, values.num_samples, values.seed, values.reserve, values.range_size)
  print(table(report))
  binary.write_report(values.output, finite(report))
  return 0


def check(names, num_samples, reserve):
  """Raises ValueError naming the flag whose value is not allowed."""
  unknown = sorted(set(names) - set(mechanisms_lib.NAMES))
  if unknown or not names:
    raise ValueError(f"--mechanisms: {','.join(unknown)!r}: must be of {', '.join(mechanisms_lib.NAMES)}")
  if num_samples is not None and num_samples < 0:
    raise ValueError(f"--num_samples={num_samples}: must be at least 0")
  if reserve is not None and not 0 <= reserve < math.inf:
    raise ValueError(f"--reserve={reserve}: must be a finite number, at least 0")


def evaluate(market, names, num_samples=None, seed=0, reserve=None, range_size=32, sizes=None):
  """Returns the report: every mechanism's figures on the same draws, and its outcome on each profile of the market."""
  if num_samples is None:
    num_samples = DEFAULT_SAMPLES if market.bids is None else 0
  factories = mechanisms_lib.on_market(market, reserve=reserve, range_size=range_size)
  built = {name: factories[name]() for name in names}
  report = {"market": market.name, "num_samples": num_samples, "seed": seed, "mechanisms": {}}
  for name, mechanism in built.items() if num_samples else ():
    rng = np.random.default_rng(seed)
    sample = lambda count, rng=rng: market_lib.sample_values(market, rng, count)
    report["mechanisms"][name] = audit_lib.audit(mechanism, market.distributions, sample, num_samples, sizes)
  if market.bids is not None:
    report["profiles"] = [
      {"bids": bids.tolist(), **{name: audit_lib.outcome_of_profile(built[name], bids) for name in names}}
      for bids in market.bids
    ]
  return report


def finite(report):
  """Returns the report with null for what is infinite or undefined (regret over a payment of 0)."""
  if isinstance(report, dict):
    return {key: finite(value) for key, value in report.items()}
  if isinstance(report, list):
    return [finite(value) for value in report]
  return None if isinstance(report, float) and not math.isfinite(report) else report


def table(report):
  """Returns the report as text: one column per mechanism, then one line per profile and mechanism."""
  lines = [f"market {report['market']}, {report['num_samples']} samples, seed {report['seed']}"]
  figures = report["mechanisms"]
  if figures:
    lines.append(" " * 26 + "".join(f"{name:>18}" for name in figures))
    for column, form in COLUMNS.items():
      lines.append(f"{column:<26}" + "".join(f"{form.format(one[column]):>18}" for one in figures.values()))
  for number, profile in enumerate(report.get("profiles", ())):
    lines.append(f"profile {number}: bids {' '.join(f'{bid:g}' for bid in profile['bids'])}")
    for name, outcome in profile.items():
      if name != "bids":
        prices = " ".join(f"{outcome['prices_per_click'][ad]:.6g}" for ad in outcome["list"])
        shown = " ".join(map(str, outcome["list"]))
        lines.append(f"  {name:<18} list [{shown}]  prices per click [{prices}]")
  return "\n".join(lines)


if __name__ == "__main__":
  define_flags()
  binary.run(main)
