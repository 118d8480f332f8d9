"""The report's plots (matplotlib, Agg): each reads its section of the results dict and is left out without it.

Forms: results["frontier"] = {system: [{"knob", "ad_share", figure: ..}]}; ["calibration"] = {model: {"predicted",
"observed", "count"}}; ["curves"] = [{"title", "nodes", "x", "price", "myerson", "value"}]; ["scatter"] = {rule:
{"myerson", "own"}}; regret bars read the systems' "audit/..." figures.
"""

import os

import numpy as np

COLORS = ("#2f6db5", "#d9822b", "#3a9d6e", "#b5476b", "#7d5fb2", "#8c6d46", "#4aa3b8", "#6b7280")
GREY = "#9aa0a8"


def draw(results, directory, plots=None):
  """Returns [(caption, file name)] of the PNGs written into `directory`; plots: of PLOTS's form, None: PLOTS."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  style = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e8eb",
    "axes.axisbelow": True, "axes.edgecolor": "#5a6068", "axes.titlesize": 11, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "legend.frameon": False, "figure.dpi": 130, "lines.linewidth": 1.8,
  }
  written = []
  with pyplot.rc_context(style):
    for name, (caption, function) in (plots or PLOTS).items():
      figure = function(results, pyplot)
      if figure is not None:
        figure.savefig(os.path.join(directory, f"{name}.png"), bbox_inches="tight", facecolor="white")
        pyplot.close(figure)
        written.append((caption, f"{name}.png"))
  return written


def color(number):
  """Returns the colour of the number-th series."""
  return COLORS[number % len(COLORS)]


def same_lines(section):
  """Returns {"A, B": points} of {system: points}, systems of the same points together: they differ by payments alone,
  and the later line would hide the earlier.
  """
  names = {}
  for system, points in section.items():
    names.setdefault(repr(points), []).append(system)
  return {", ".join(some): section[some[0]] for some in names.values()}


def _frontier(results, pyplot):
  """Welfare and clicks against the ad share, one line per system."""
  section = results.get("frontier")
  if not section:
    return None
  every = {key for points in section.values() for point in points for key in point if point[key]}
  shown = [(key, label) for key, label in FRONTIER_AXES if key in every]
  if not shown:
    return None
  figure, axes = pyplot.subplots(1, len(shown), figsize=(4.6 * len(shown), 3.6), squeeze=False)
  for axis, (key, label) in zip(axes[0], shown, strict=True):
    for number, (system, points) in enumerate(same_lines(section).items()):
      known = [point for point in points if point.get(key) is not None]
      x, y = [point["ad_share"] for point in known], [point[key] for point in known]
      axis.plot(x, y, marker="o", markersize=4, color=color(number), label=system)
    if results.get("target_ad_share") is not None:
      axis.axvline(results["target_ad_share"], color=GREY, linestyle="--", linewidth=1, zorder=0)
    axis.set(xlabel="ad share", title=label)
  axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
  figure.tight_layout()
  return figure


FRONTIER_AXES = (
  ("true/welfare", "welfare per request"),
  ("true/rpm", "RPM, truthful bids"),
  ("true/ctr_poi", "CTR-poi"),
)


def _calibration(results, pyplot):
  """Observed against predicted click rate in equally filled bins, on log axes."""
  section = results.get("calibration")
  if not section:
    return None
  figure, axis = pyplot.subplots(figsize=(4.4, 4.2))
  rates = []
  for number, (name, curve) in enumerate(section.items()):
    predicted, observed = np.array(curve["predicted"], float), np.array(curve["observed"], float)
    keep = (predicted > 0) & (observed > 0)
    rates.append(np.concatenate([predicted[keep], observed[keep]]))
    axis.plot(predicted[keep], observed[keep], marker="o", markersize=4.5, color=color(number), label=name)
  rates = np.concatenate(rates)
  if not rates.size:
    pyplot.close(figure)
    return None
  ends = np.array([rates.min() / 1.25, rates.max() * 1.25])
  axis.fill_between(ends, ends * 0.9, ends * 1.1, color="#eef0f3", zorder=0, label="± 10%")
  axis.plot(ends, ends, color=GREY, linestyle="--", linewidth=1, zorder=1)
  axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
  _rate_ticks(axis.xaxis, ends)
  _rate_ticks(axis.yaxis, ends)
  axis.set(xlabel="predicted click probability", ylabel="observed click rate", title="Calibration")
  axis.legend(loc="upper left")
  return figure


def _rate_ticks(axis, ends):
  """Sets ticks at 1, 2, 5 times powers of ten that lie between the ends."""
  from matplotlib import ticker

  ticks = [step * 10.0**power for power in range(-6, 1) for step in (1, 2, 5)]
  axis.set_major_locator(ticker.FixedLocator([tick for tick in ticks if ends[0] <= tick <= ends[1]]))
  axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
  axis.set_minor_locator(ticker.NullLocator())


def _curves(results, pyplot, limit=4):
  """Allocation (top) and expected payment (bottom) of one ad over its own bid, learned beside Myerson."""
  section = (results.get("curves") or [])[:limit]
  if not section:
    return None
  figure, axes = pyplot.subplots(
    2, len(section), figsize=(3.3 * len(section) + 0.6, 5.0), sharex="col", squeeze=False
  )
  for column, curve in enumerate(section):
    nodes, x, price, myerson = (np.array(curve[key], float) for key in ("nodes", "x", "price", "myerson"))
    last = np.searchsorted(nodes, 3 * curve["value"]) + 1
    top, bottom = axes[0][column], axes[1][column]
    top.step(nodes[:last], x[:last], where="post", color=color(0))
    bottom.step(nodes[:last], (myerson * x)[:last], where="post", color=GREY, linestyle="--", label="Myerson")
    bottom.step(nodes[:last], (price * x)[:last], where="post", color=color(1), label="own rule")
    for axis in (top, bottom):
      axis.axvline(curve["value"], color="#5a6068", linestyle=":", linewidth=1.2)
      axis.set_ylim(bottom=0)
    top.set_title(curve.get("title", ""))
    bottom.set_xlabel("own bid (dotted: value)")
  axes[0][0].set_ylabel("click probability x")
  axes[1][0].set_ylabel("expected payment p x")
  axes[1][0].legend(loc="lower right")
  figure.align_ylabels()
  figure.tight_layout()
  return figure


def _scatter(results, pyplot):
  """Each rule's expected payment against the Myerson payment of the same allocation."""
  section = results.get("scatter")
  if not section:
    return None
  figure, axes = pyplot.subplots(1, len(section), figsize=(3.9 * len(section), 3.9), squeeze=False)
  for number, (axis, (name, points)) in enumerate(zip(axes[0], section.items(), strict=True)):
    myerson, own = np.array(points["myerson"], float), np.array(points["own"], float)
    end = max(myerson.max(initial=0), own.max(initial=0)) * 1.05 or 1.0
    axis.plot([0, end], [0, end], color=GREY, linestyle="--", linewidth=1)
    axis.scatter(myerson, own, s=12, alpha=0.5, color=color(number), linewidths=0)
    if myerson.size > 2 and myerson.std() > 0 and own.std() > 0:
      axis.text(0.04, 0.9, f"r = {np.corrcoef(myerson, own)[0, 1]:.3f}", transform=axis.transAxes)
    axis.set(xlim=(0, end), ylim=(0, end), aspect="equal", title=name, xlabel="Myerson payment")
  axes[0][0].set_ylabel("own payment")
  figure.tight_layout()
  return figure


def _regret(results, pyplot):
  """Regret over payment per system, under the model's clicks and the world's; bars are means, dots are seeds."""
  systems = results["systems"]
  keys = [("audit/model/regret_per_payment", "clicks by model"), ("audit/true/regret_per_payment", "true clicks")]
  names = [name for name, one in systems.items() if any(key in one["figures"] for key, _ in keys)]
  if not names:
    return None
  figure, axis = pyplot.subplots(figsize=(6.2, 0.62 * len(names) + 1.2))
  for number, (key, label) in enumerate(keys):
    heights = np.arange(len(names)) + (number - 0.5) * 0.36
    values = [[v for v in systems[name]["figures"].get(key, []) if v is not None] for name in names]
    means = [100 * np.mean(v) if v else 0.0 for v in values]
    axis.barh(heights, means, height=0.34, color=color(number), label=label)
    for height, mean, seeds in zip(heights, means, values, strict=True):
      axis.scatter([100 * value for value in seeds], [height] * len(seeds), s=10, color="#2b2f36", zorder=3)
      farthest = max([mean, *(100 * value for value in seeds)])
      label = f"{mean:.2g}%" if mean >= 0.005 else "0%"
      axis.annotate(label, (farthest, height), (5, 0), textcoords="offset points", va="center", fontsize=8)
  axis.set_yticks(np.arange(len(names)), names)
  axis.invert_yaxis()
  axis.grid(axis="y", visible=False)
  axis.margins(x=0.12)
  axis.set(xlabel="regret / payment (%)", title="What lying could gain")
  axis.legend(loc="best")
  return figure


PLOTS = {
  "frontier": ("Ad-load frontier (dashed: the load at which systems are compared)", _frontier),
  "calibration": ("Calibration of predicted clicks", _calibration),
  "curves": ("Allocation and payment over the own bid", _curves),
  "scatter": ("Payments against the Myerson payment of the same allocation", _scatter),
  "regret": ("Regret over payment", _regret),
}
