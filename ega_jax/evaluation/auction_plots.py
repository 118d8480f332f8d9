"""What launch.auction draws of mechanisms on a market: curves over the own bid, payments against Myerson's, and revenue
against regret."""

import numpy as np

from ega_jax.auction import market as market_lib
from ega_jax.auction import regret, values
from ega_jax.evaluation import plots

CURVES = 4  # mechanisms whose curves are drawn
SCATTER = 300  # profiles whose payments are drawn
GRID_POINTS = 201


def draw(market, mechanisms, report, directory, seed=0):
  """Returns [(caption, file name)] of the PNGs written into `directory`.

  Args: mechanisms: {name: function of bids f[B, N] -> types.Outcome}; report: of launch.auction on the same ones.
  """
  profiles = market_lib.sample_values(market, np.random.default_rng([seed, 2]), SCATTER)
  results = {
    "curves": [_curve(market, one, name, profiles) for name, one in list(mechanisms.items())[-CURVES:]],
    "scatter": {name: _payments(one, profiles) for name, one in mechanisms.items()},
    "revenue": report["mechanisms"],
  }
  own = {"revenue": ("Revenue against regret (bars: two standard errors)", _revenue)}
  kinds = {name: plots.PLOTS[name] for name in ("curves", "scatter")} | own
  return plots.draw(results, directory, kinds)


def _curve(market, mechanism, name, profiles):
  """Returns the curve of the ad that pays most in the first profile where somebody pays, its own bid moving."""
  outcome = mechanism(profiles)
  paid = np.asarray(outcome.price) * outcome.click_probability
  row = int((paid.max(-1) > 0).argmax())
  ad, bids = int(paid[row].argmax()), profiles[row : row + 1]
  value = float(bids[0, ad])
  grid = np.append(values.misreport_grid(market.distributions[ad], bids.max(-1), GRID_POINTS)[0], value)
  table = regret.counterfactual_table(mechanism, bids, np.array([[ad]]), np.sort(grid)[None, None])
  leaf = lambda a: np.asarray(a)[0, 0].tolist()
  myerson = regret.myerson_integral(table).price
  found = {"nodes": table.nodes, "x": table.x, "price": table.price, "myerson": myerson}
  return {key: leaf(a) for key, a in found.items()} | {"title": f"{name}, ad {ad}", "value": value}


def _payments(mechanism, profiles):
  """Returns {"own", "myerson"}: expected payments of the ads shown, and the Myerson payments of the same lists."""
  ads = np.broadcast_to(np.arange(profiles.shape[1]), profiles.shape)
  nodes = profiles[..., None] * np.linspace(0.0, 1.0, GRID_POINTS)
  table = regret.counterfactual_table(mechanism, profiles, ads, nodes)
  shown = table.x[..., -1] > 0
  own, myerson = table.price[..., -1] * table.x[..., -1], regret.myerson_integral(table).expected[..., -1]
  return {"own": own[shown].tolist(), "myerson": myerson[shown].tolist()}


def _revenue(results, pyplot):
  """Revenue against mean regret, a point per mechanism."""
  section = results.get("revenue")
  if not section:
    return None
  figure, axis = pyplot.subplots(figsize=(5.6, 3.8))
  for number, (name, one) in enumerate(section.items()):
    axis.errorbar(
      one["mean_regret"], one["revenue"], yerr=2 * one["revenue_stderr"], fmt="o", color=plots.color(number), label=name
    )
  axis.set_xscale("symlog", linthresh=1e-6)
  axis.set(xlabel="mean regret per ad", ylabel="revenue per auction, truthful bids", title="Revenue and regret")
  axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
  figure.tight_layout()
  return figure
