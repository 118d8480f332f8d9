"""The frontier over the knob of the ad load; the knob itself is fitted in systems/balance.py."""


def frontier(figures_of, knobs):
  """Returns one dict per knob, {"knob": float, **figures_of(knob)}, ordered by ad share."""
  points = [{"knob": float(knob)} | dict(figures_of(knob)) for knob in knobs]
  return sorted(points, key=lambda point: point["ad_share"])
