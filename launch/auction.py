"""Runs exact auction mechanisms on a market and prints revenue, welfare, regret and participation of each.

python -m launch.auction --market=FILE.json [--mechanisms=myerson,vcg,gsp,first_price] [--num_samples=200000] [--seed=0]
  [--reserve=R] [--range_size=32] [--learned=price,critical,rate --allocation=myerson] [--output=FILE.json]
  [--plots=DIR]
A market, with two slots and two ads:
  {"slots": 2, "quality": [0.6, 0.5], "position": [1.0, 0.6],
   "values": {"distribution": "uniform", "low": 0, "high": 1}}
"values" is one distribution (also "exponential" of "mean", "lognormal" of "mu" and "sigma") or a list of one per ad.
Optional: "name", "bids" (profiles), and "similarity" (ads x ads) with "externality" {"above", "below", "decay"}:
`ega_jax/auction/market.py` has the formula.
Mechanisms: myerson, vcg, vcg_range, gsp, gsp_reserve, first_price, separable_myerson. --learned trains payments on the
frozen lists of --allocation, by revenue and regret alone (`ega_jax/systems/market_payment.py`): mechanisms
learned_price, learned_critical and learned_rate, with their distance from the Myerson payments of the same lists. A
market with "bids" has just these profiles evaluated, unless --num_samples is given. Exit codes: 0, 1 the run failed, 2
bad input.
"""

import functools
import math
import os
import time

import numpy as np
from absl import flags

from ega_jax.auction import audit as audit_lib
from ega_jax.auction import market as market_lib
from ega_jax.auction import mechanisms as mechanisms_lib
from ega_jax.evaluation import auction_plots
from ega_jax.stages import market_payment as learning
from ega_jax.systems import market_payment as learned_lib
from launch import binary

DEFAULT_SAMPLES = 200_000
COLUMNS = {
  "revenue": "{:.5f}", "revenue_stderr": "{:.5f}", "virtual_surplus": "{:.5f}", "welfare": "{:.5f}", "clicks": "{:.4f}",
  "mean_regret": "{:.1e}", "max_regret": "{:.1e}", "regret_over_payment": "{:.2%}", "psi": "{:.4f}", "i_sic": "{:.4f}",
  "non_monotone": "{:.2%}", "payment_identity_residual": "{:.1e}", "ir_violations": "{}",
}
LEARNED_COLUMNS = {"payment_correlation": "{:.5f}", "payment_mae": "{:.1e}", "training_seconds": "{:.0f}"}
TRUTHFUL = ("myerson", "vcg", "vcg_range")  # of these a learned payment can be told from the exact one
DISTANCE_PROFILES = 2000


def define_flags():
  """Defines the flags; not on import, so that tests can import several binaries."""
  flags.DEFINE_string("market", None, "Market specification, JSON.", required=True)
  flags.DEFINE_string("mechanisms", "myerson,vcg,gsp,first_price", f"Of {', '.join(mechanisms_lib.NAMES)}.")
  flags.DEFINE_integer("num_samples", None, f"Value profiles to draw. Default: {DEFAULT_SAMPLES}, or 0 with bids.")
  flags.DEFINE_integer("seed", 0, "Same seed, same values, for every mechanism.", lower_bound=0)
  flags.DEFINE_float("reserve", None, "Per click, of gsp and gsp_reserve. Default: 0, and each ad's Myerson reserve.")
  flags.DEFINE_integer("range_size", 32, "Full-length lists in vcg_range.", lower_bound=1)
  flags.DEFINE_list("learned", [], f"Payments to learn, of {', '.join(learned_lib.FORMS)}.")
  flags.DEFINE_enum("allocation", "myerson", TRUTHFUL, "Whose lists are frozen for --learned.")
  flags.DEFINE_integer("learning_steps", learned_lib.Options.steps, "Steps of --learned.", lower_bound=1)
  flags.DEFINE_string("output", "", "JSON report.")
  flags.DEFINE_string("plots", "", "Folder for plots of curves, payments, and revenue against regret.")


def main(overrides):
  """Returns the exit code."""
  values = flags.FLAGS
  binary.refuse_overrides(overrides)
  binary.check_output(values.output)
  binary.check_output(values.plots, folder=True, flag="--plots")
  names = [name.strip() for name in values.mechanisms.split(",") if name.strip()]
  check(names, values.num_samples, values.reserve, values.learned)
  market = market_lib.read(values.market)
  learned = [learned_lib.Options(form, seed=values.seed, steps=values.learning_steps) for form in values.learned]
  built, extra = build(market, names, values.reserve, values.range_size, learned, values.allocation)
  report = evaluate(market, built, values.num_samples, values.seed, extra=extra)
  print(table(report))
  binary.write_report(values.output, finite(report))
  if values.plots:
    os.makedirs(values.plots, exist_ok=True)
    for caption, name in auction_plots.draw(market, built, report, values.plots, values.seed):
      print(f"{os.path.join(values.plots, name)}: {caption}")
  return 0


def check(names, num_samples, reserve, learned=()):
  """Raises ValueError naming the flag whose value is not allowed."""
  unknown = sorted(set(names) - set(mechanisms_lib.NAMES))
  if unknown or not names:
    raise ValueError(f"--mechanisms: {','.join(unknown)!r}: must be of {', '.join(mechanisms_lib.NAMES)}")
  if other := sorted(set(learned) - set(learned_lib.FORMS)):
    raise ValueError(f"--learned: {','.join(other)!r}: must be of {', '.join(learned_lib.FORMS)}")
  if num_samples is not None and num_samples < 0:
    raise ValueError(f"--num_samples={num_samples}: must be at least 0")
  if reserve is not None and not 0 <= reserve < math.inf:
    raise ValueError(f"--reserve={reserve}: must be a finite number, at least 0")


def build(market, names, reserve=None, range_size=32, learned=(), allocation="myerson"):
  """Returns ({name: mechanism}, {name: more figures}).

  Args: learned: learned.Options of payments to learn on the lists of the mechanism `allocation`.
  """
  factories = mechanisms_lib.on_market(market, reserve=reserve, range_size=range_size)
  built, extra = {name: factories[name]() for name in names}, {}
  for options in learned:
    name = f"learned_{options.form}"
    built[name], extra[name] = learn(market, factories[allocation](), options)
  return built, extra


def evaluate(market, built, num_samples=None, seed=0, sizes=None, extra=None):
  """Returns the report of {name: mechanism}: every one's figures on the same draws, with `extra` of `build`, and its
  outcome on each profile of the market.
  """
  if num_samples is None:
    num_samples = DEFAULT_SAMPLES if market.bids is None else 0
  report = {"market": market.name, "num_samples": num_samples, "seed": seed, "mechanisms": {}}
  for name, mechanism in built.items() if num_samples else ():
    rng = np.random.default_rng(seed)
    sample = lambda count, rng=rng: market_lib.sample_values(market, rng, count)
    audited = audit_lib.audit(mechanism, market.distributions, sample, num_samples, sizes)
    report["mechanisms"][name] = audited | (extra or {}).get(name, {})
  if market.bids is not None:
    report["profiles"] = [
      {"bids": bids.tolist(), **{name: audit_lib.outcome_of_profile(one, bids) for name, one in built.items()}}
      for bids in market.bids
    ]
  return report


def learn(market, truthful, options):
  """Returns (MarketPayment, its figures): a payment learned on the lists of a truthful mechanism, which pays Myerson's
  for them, and how far the two are apart on profiles that training has not seen.
  """
  started = time.perf_counter()
  theta_of = functools.partial(market_lib.click_probabilities, market)
  mechanism, _ = learning.learn(truthful, market.distributions, theta_of, options)
  seconds = time.perf_counter() - started
  profiles = market_lib.sample_values(market, np.random.default_rng([options.seed, 1]), DISTANCE_PROFILES)
  return mechanism, learning.distance(mechanism, truthful, profiles) | {"training_seconds": seconds}


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
    for column, form in LEARNED_COLUMNS.items():
      if not any(column in one for one in figures.values()):
        continue
      cells = (form.format(one[column]) if column in one else "" for one in figures.values())
      lines.append(f"{column:<26}" + "".join(f"{cell:>18}" for cell in cells))
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
