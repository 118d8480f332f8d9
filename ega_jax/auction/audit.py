"""One mechanism on one market: every figure of revenue, welfare, truthfulness and participation. numpy, float64.

Memory is bounded by chunks, not by the number of samples. Regret, curves and the payment identity are measured on the
first profiles of the same draws.
"""

import concurrent.futures
import dataclasses
import os

import numpy as np

from ega_jax import types
from ega_jax.auction import metrics, values
from ega_jax.auction import regret as regret_lib

CELLS = 2**22  # bids that a mechanism is asked about at once, in a thread


@dataclasses.dataclass(frozen=True)
class Sizes:
  """How much is measured."""

  regret_profiles: int = 2000  # profiles with regret on the whole grid, Psi and i-SIC
  grid_points: int = 201
  identity_profiles: int = 100  # profiles with the payment identity, its integral refined at jumps
  chunk: int = 10_000  # profiles per call of the mechanism
  block: int = 50  # profiles whose curves are swept together


def audit(mechanism, distributions, sample, num_samples, sizes=None):
  """Returns a dict of figures of a mechanism under truthful bids; means are per auction, regret is per ad.

  Args:
    mechanism: function of bids f[..., N] -> types.Outcome.
    distributions: one value distribution per ad.
    sample: function of a count -> values f[count, N]; called again and again for the next draws.
    num_samples: how many profiles.
    sizes: Sizes; None: the defaults.
  """
  sizes = sizes or Sizes()
  first, moments, checks = [], [], []
  for start in range(0, num_samples, sizes.chunk):
    drawn = sample(min(sizes.chunk, num_samples - start))
    outcome = mechanism(drawn)
    totals = metrics.outcome_totals(outcome, drawn, distributions)
    # Paired per profile: what an incentive-compatible mechanism may earn above its virtual surplus is noise.
    totals["revenue_minus_virtual_surplus"] = totals["revenue"] - totals["virtual_surplus"]
    moments.append({name: (len(one), one.mean(), one.var()) for name, one in totals.items()})
    checks.append(metrics.participation(outcome, drawn))
    if start < sizes.regret_profiles:
      first.append(drawn)
  joined = {name: _joined(*zip(*(part[name] for part in moments), strict=True)) for name in moments[0]}
  audited = np.concatenate(first)[: sizes.regret_profiles]
  return {
    **{name: mean for name, (mean, _) in joined.items()},
    **{f"{name}_stderr": joined[name][1] for name in ("revenue", "revenue_minus_virtual_surplus")},
    **truthfulness(mechanism, distributions, audited, sizes),
    "min_payment": min(check["min_payment"] for check in checks),
    "min_slack": min(check["min_slack"] for check in checks),
    "ir_violations": sum(check["ir_violations"] for check in checks),
  }


def _joined(count, mean, variance):
  """Returns (mean, standard error) of samples of which each chunk's count, mean and variance are known."""
  count, mean, variance = map(np.array, (count, mean, variance))
  whole = np.average(mean, weights=count)
  spread = np.average(variance + (mean - whole) ** 2, weights=count)
  return float(whole), float(np.sqrt(spread / max(count.sum() - 1, 1)))


def truthfulness(mechanism, distributions, profiles, sizes=None):
  """Returns a dict of floats of truthful bidding: `summarise_regret` per ad, psi and psi_ratio, non_monotone (the share
  of own-bid curves that fall), payment_identity_residual (a mean) and i_sic.

  Args:
    mechanism, distributions: as in `audit`.
    profiles: f[B, N], values per click.
    sizes: Sizes; None: the defaults. The payment identity is measured on the first `identity_profiles`.
  """
  sizes = sizes or Sizes()
  blocks = [profiles[start : start + sizes.block] for start in range(0, len(profiles), sizes.block)]

  def sweep(block):
    grids = [values.misreport_grid(one, block.max(-1), sizes.grid_points) for one in distributions]
    return metrics.regret_and_curves(mechanism, block, np.stack(grids, axis=1), chunk=_per_call(block))

  swept = _in_threads(sweep, blocks)
  fields = [field.name for field in dataclasses.fields(regret_lib.Regret)]
  lost = regret_lib.Regret(**{name: np.concatenate([getattr(one, name) for one, _ in swept]) for name in fields})
  identity = [block[: sizes.identity_profiles] for block in blocks[: -(-sizes.identity_profiles // sizes.block)]]
  residue = lambda block: metrics.payment_identity_residual(mechanism, block, rounds=8, chunk=_per_call(block))
  residual = np.concatenate(_in_threads(residue, identity))
  literal, ratio = metrics.psi(mechanism, profiles, chunk=_per_call(profiles))
  return {
    **regret_lib.summarise_regret(lost),
    "psi": literal,
    "psi_ratio": ratio,
    "non_monotone": float(np.concatenate([falling for _, falling in swept]).mean()),
    "payment_identity_residual": float(residual[: sizes.identity_profiles].mean()),
    "i_sic": metrics.i_sic(mechanism, profiles, chunk=_per_call(profiles)),
  }


def _per_call(profiles):
  """Returns how many misreports of each of the profiles f[B, N] are run at once."""
  return max(1, CELLS // max(profiles.size, 1))


def _in_threads(function, items):
  """Returns [function(item)]; numpy leaves the interpreter lock, so that every core has a block to work on."""
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    return list(pool.map(function, items))


def outcome_of_profile(mechanism, bids):
  """Returns {"list", "click_probability", "expected_payments", "prices_per_click"} of one profile of bids f[N], as
  Python lists; the list holds the ads shown, in slot order.

  mechanism: function of bids [B, N] -> types.Outcome with a method `shown_lists`.
  """
  outcome: types.Outcome = mechanism(bids[None])
  x, price = outcome.click_probability[0], outcome.price[0]
  return {
    "list": [int(ad) for ad in mechanism.shown_lists(bids[None])[0] if ad >= 0],
    "click_probability": x.tolist(),
    "expected_payments": (x * price).tolist(),
    "prices_per_click": price.tolist(),
  }
