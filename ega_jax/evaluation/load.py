"""Equal ad load of the systems of a comparison, and the frontier over the load; the search is in systems/balance.py."""

import dataclasses

from ega_jax.evaluation import market, payments
from ega_jax.evaluation.systems import evaluate_system
from ega_jax.systems.balance import LOADS, NEAR, TOLERANCE, balanced_knob
from ega_jax.training.writers import Progress

FRONTIER_STEPS = (-0.3, -0.15, 0.0, 0.15, 0.3)  # of the slot price, in median bids
FRONTIER_FIGURES = ("ad_share", "true/welfare", "true/clicks", "true/ctr_poi")


@dataclasses.dataclass(frozen=True)
class EqualLoad:
  """The load that every system is brought to.

  columns: request columns [n, ...] on which it is measured, `chunk` at once; target: share of ads; list_length: K;
  fine: columns of more requests, on which truthful bids are balanced in the end, or None.
  """

  columns: dict
  target: float
  chunk: int
  list_length: int
  fine: dict | None = None

  def balanced(self, entry):
    """Returns the entry with its knob set to the target ad share; payment rules follow their system."""
    return self._at(entry, entry.knob, 1.0, TOLERANCE, self.fine) if entry.knob else entry

  def by_bids(self, entry):
    """Returns a function g -> (system, rule) of a balanced entry, its knob set anew for bids g * value.

    Ads that bid less are fewer at the same price, which then is a reserve: the systems would no longer be compared at
    one load. A rule that is learned for one allocation keeps it.
    """
    known, learned = {1.0: entry}, not hasattr(entry.rule, "on")

    def at(shading):
      if shading not in known:
        last = next(reversed(known.values()))  # g moves in small steps
        known[shading] = entry if learned else self._at(last, entry.knob or LOADS, shading, NEAR)
      return known[shading].system, known[shading].rule

    return at

  def _at(self, entry, bracket, shading, tolerance, fine=None):
    knob = balanced_knob(
      entry.system, self.columns, self.target, self.chunk, self.list_length, bracket=bracket, tolerance=tolerance,
      shading=shading, fine=fine, say=Progress(entry.name, 0).say,
    )  # fmt: skip
    system = entry.system.with_knob(knob)
    return dataclasses.replace(entry, system=system, rule=entry.rule.on(system))


def frontier(figures_of, knobs):
  """Returns one dict per knob, {"knob": float, **figures_of(knob)}, ordered by ad share."""
  points = [{"knob": float(knob)} | dict(figures_of(knob)) for knob in knobs]
  return sorted(points, key=lambda point: point["ad_share"])


def frontier_points(system, columns, world, chunk):
  """Returns `frontier` of a system around the slot price it is at: figures of test requests by ad load."""

  def figures(price):
    totals = evaluate_system(system.with_knob(price), payments.Free(), columns, world, chunk_size=chunk)
    return {key: value for key, value in market.summarise(totals).items() if key in FRONTIER_FIGURES}

  return frontier(figures, [system.knob + step for step in FRONTIER_STEPS])
