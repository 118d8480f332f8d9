"""The symmetric shading equilibrium at which systems with different payment rules are compared.

Under truthful bids a manipulable rule can charge more than any truthful one; that is not a better system. Our decision:
every ad bids g * value, with g such that no single ad gains by another multiple.
"""

import dataclasses

import numpy as np

from ega_jax.auction import regret

MULTIPLIERS = tuple(round(0.3 + 0.05 * k, 2) for k in range(19))


@dataclasses.dataclass(frozen=True)
class ShadingEquilibrium:
  """Where best responses ended."""

  multiplier: float | None  # g, None where the rounds did not converge
  gain: float  # residual relative gain of the best deviation from the last g
  rounds: int  # best-response rounds evaluated
  converged: bool
  path: tuple  # every g visited

  def __str__(self):
    return f"{self.multiplier:.3f}" if self.converged else "none"


def symmetric_shading_equilibrium(utility_fn, multipliers=MULTIPLIERS, *, rounds=12, min_gain=0.01):
  """Returns the ShadingEquilibrium reached from g = 1 by damped best responses.

  While the multiplier m that is best for one deviator gains at least `min_gain` of mean utility over g, g moves
  half-way to m; an ad stays unless it gains, so that g = 1 for a truthful mechanism.

  Args:
    utility_fn: (g, m) -> mean utility of one deviator who bids m * value while the others bid g * value.
    multipliers: the candidates for m.
    rounds: most best-response rounds.
    min_gain: least relative gain worth moving for.
  """
  g, path = 1.0, [1.0]
  for count in range(1, rounds + 1):
    base = float(utility_fn(g, g))
    utilities = np.array([float(utility_fn(g, m)) for m in multipliers])
    best = int(utilities.argmax())
    difference = utilities[best] - base
    gain = difference / base if base > 0 else (np.inf if difference > 0 else 0.0)
    if gain < min_gain:
      return ShadingEquilibrium(g, gain=max(float(gain), 0.0), rounds=count, converged=True, path=tuple(path))
    g += (multipliers[best] - g) / 2
    path.append(g)
  return ShadingEquilibrium(multiplier=None, gain=float(gain), rounds=rounds, converged=False, path=tuple(path))


def deviator_utility(mechanism, values, deviators):
  """Returns utility_fn(g, m) of a mechanism: mean (v - p) x of one deviator per auction, the others at g * value.

  Args:
    mechanism: function of bids [B, G, N] -> types.Outcome.
    values: f[B, N], per click.
    deviators: i[B], one column per auction, drawn at random.
  """
  values, deviators = np.asarray(values, np.float64), np.asarray(deviators)[:, None]
  own = np.take_along_axis(values, deviators, axis=1)

  def utility_fn(g, m):
    bids = regret.with_own_bid(g * values, deviators, m * own)
    outcome = mechanism(bids)
    take = lambda leaf: np.take_along_axis(np.asarray(leaf)[:, 0], deviators, axis=1)
    return ((own - take(outcome.price)) * take(outcome.click_probability)).mean()

  return utility_fn
