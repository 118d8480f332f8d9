"""Equal ad load of the systems of a comparison, and the frontier over the load; the search is in systems/balance.py."""

import dataclasses

import numpy as np

from ega_jax.evaluation import market, payments
from ega_jax.evaluation.systems import evaluate_system, take
from ega_jax.systems.balance import LOADS, NEAR, TOLERANCE, balanced_load
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
  found: dict = dataclasses.field(default_factory=dict, compare=False, repr=False)  # {system: it at the load}

  def balanced(self, entry):
    """Returns the entry with its knob set to the target ad share; payment rules follow their system. Entries of one
    system get one system.
    """
    if not entry.knob:
      return entry
    if entry.system not in self.found:
      self.found[entry.system] = self._at(entry, entry.knob, 1.0, self.columns, fine=self.fine)[0].system
    system = self.found[entry.system]
    return dataclasses.replace(entry, system=system, rule=entry.rule.on(system))

  def by_bids(self, entry):
    """Returns a function (g, finely=False) -> (system, rule) of a balanced entry, its knob set anew for bids g * value:
    finely, or on some of the requests, which a search over g can do with.

    Ads that bid less are fewer at the same price, which then is a reserve: the systems would no longer be compared at
    one load. A rule that is learned for one allocation keeps it, and so does a system whose ad load no bid moves
    (`load_sees_bids` False).
    """
    known, slope, few = {(1.0, False): entry, (1.0, True): entry}, None, self._some()

    def at(shading, finely=False):
      nonlocal slope
      if not hasattr(entry.rule, "on") or not getattr(entry.system, "load_sees_bids", True):
        return entry.system, entry.rule
      if (shading, finely) not in known:
        last = next(reversed(known.values()))  # g moves in small steps
        columns, tolerance = (self.columns, TOLERANCE) if finely else (few, NEAR)
        start = known.get((shading, False), last)
        known[shading, finely], new = self._at(start, entry.knob or LOADS, shading, columns, tolerance, slope=slope)
        slope = new or slope
      found = known[shading, finely]
      return found.system, found.rule

    return at

  def _some(self):
    """Returns a third of the requests, evenly spread, in whole chunks."""
    index = np.arange(0, len(self.columns["is_ad"]), 3)
    count = len(index) // self.chunk * self.chunk
    return take(self.columns, index[:count]) if count else self.columns

  def _at(self, entry, bracket, shading, columns, tolerance=TOLERANCE, **search):
    """Returns (the entry at the load, slope of its search)."""
    found = balanced_load(
      entry.system, columns, self.target, self.chunk, self.list_length, bracket=bracket, tolerance=tolerance,
      shading=shading, say=Progress(entry.name, 0).say, **search,
    )  # fmt: skip
    system = entry.system.with_knob(found.knob)
    return dataclasses.replace(entry, system=system, rule=entry.rule.on(system)), found.slope


def frontier(figures_of, knobs):
  """Returns one dict per knob, {"knob": float, **figures_of(knob)}, ordered by ad share."""
  points = [{"knob": float(knob)} | dict(figures_of(knob)) for knob in knobs]
  return sorted(points, key=lambda point: point["ad_share"])


def frontier_points(system, columns, world, chunk):
  """Returns `frontier` of a system around the slot price it is at: FRONTIER_FIGURES of test requests by ad load.

  Args: columns: request columns [n, ...]; world: World; chunk: requests allocated at once.
  """

  def figures(price):
    totals = evaluate_system(system.with_knob(price), payments.Free(), columns, world, chunk_size=chunk)
    return {key: value for key, value in market.summarise(totals).items() if key in FRONTIER_FIGURES}

  return frontier(figures, [system.knob + step for step in FRONTIER_STEPS])
