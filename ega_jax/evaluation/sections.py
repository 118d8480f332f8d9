"""Sections of the report beside the comparison: cost, the reward model's quality, next-POI accuracy."""

from ega_jax.evaluation.tables import cell, table

COST = {
  "parameters": ("parameters", "{:,.0f}"),
  "flops": ("flops / request", "{:.2e}"),
  "milliseconds": ("ms / request", "{:.1f}"),
  "knob": ("knob of the ad load", "{:.3f}"),
  "seconds": ("evaluated in, s", "{:.0f}"),
}
QUALITY = {
  "auc": "{:.4f}",
  "auc/ads": "{:.4f}",
  "auc/organic": "{:.4f}",
  "log_loss": "{:.4f}",
  "pcoc": "{:.3f}",
  "pcoc/ads": "{:.3f}",
  "pcoc/organic": "{:.3f}",
}
INFORMATION = {"without_time": "without the visit's time", "with_time": "with the visit's time"}
COST_NOTE = (
  "Parameters are those that an allocation and its prices read. Flops are those of the matrix products of one "
  "allocation without prices, from its program; the time is its wall time on this machine, requests in batches as in "
  "the evaluation. All rows learn from the same logs."
)
NEXT_POI_NOTE = (
  "The generator's beam over the whole catalogue on the city's public test windows, beside counts with tuned weights "
  "that see the same; validation windows decide how far it follows what training learned. The interval is of the "
  "paired difference, clustered by user."
)
DECILE = "pcoc/ad_decile_"


def of_results(results):
  """Returns [Markdown] of the sections whose part of the results dict is there, each a heading, a table and a note."""
  made = (
    ("Cost", cost(results), COST_NOTE),
    ("Reward model on logged test lists", reward(results), ""),
    ("Next POI", next_poi(results), NEXT_POI_NOTE),
  )
  return [part for heading, body, note in made if body for part in (f"## {heading}", body, note)]


def cost(results):
  """Returns the table systems x COST; "" without a known time."""
  systems = {name: one["figures"] for name, one in results["systems"].items() if "milliseconds" in one["figures"]}
  if not systems:
    return ""
  rows = [[name, *(cell(one.get(key, []), form) for key, (_, form) in COST.items())] for name, one in systems.items()]
  return table(["system", *(heading for heading, _ in COST.values())], rows)


def reward(results):
  """Returns the tables of the reward model's click quality beside the true probabilities'; "" without it."""
  seeds = [one for one in results.get("reward") or [] if one]
  if not seeds:
    return ""
  rows, deciles = [], []
  for name in ("model", "truth"):
    parts = [seed[name] for seed in seeds]
    keys = sorted((key for key in parts[0] if DECILE in key), key=lambda key: int(key.removeprefix(DECILE)))
    deciles.append([name, *(cell([part.get(key) for part in parts], "{:.2f}") for key in keys)])
    positions = [value for part in parts for key, value in part.items() if key.startswith("pcoc/position_")]
    row = [cell([part.get(key) for part in parts], form) for key, form in QUALITY.items()]
    rows.append([name, *row, f"{min(positions):.3f} .. {max(positions):.3f}"])
  leaks = sum(bool(seed.get("beats_truth")) for seed in seeds)
  bands = sum(bool(seed["calibrated"]) for seed in seeds)
  return "\n\n".join([
    table(["", *QUALITY, "pcoc by position"], rows),
    table(["pcoc by decile of the ads' predictions", *(str(i + 1) for i in range(len(deciles[0]) - 1))], deciles),
    f"PCOC in its bands ([.95, 1.05] overall, [.9, 1.1] in every position) in {bands} of {len(seeds)} seeds. "
    f"AUC above the truth's by more than three standard errors, which would be a leak: {leaks}.",
  ])  # fmt: skip


def next_poi(results):
  """Returns the table of next-POI accuracies; "" without windows."""
  seeds = [one for one in results.get("next_poi") or [] if one]
  rows = []
  for key, words in INFORMATION.items():
    parts = [seed[key] for seed in seeds if key in seed]
    for metric in parts[0]["model"] if parts else ():
      intervals = [part["difference"][metric] for part in parts]
      rows.append([
        words, metric, str(parts[0]["windows"]), cell([part["floor"][metric] for part in parts], "{:.3f}"),
        cell([part["model"][metric] for part in parts], "{:.3f}"),
        "; ".join(f"{value:+.3f} [{low:+.3f}, {high:+.3f}]" for value, low, high in intervals),
      ])  # fmt: skip
  heading = ["information", "", "windows", "floor of counts", "generator", "difference, each seed"]
  return table(heading, rows) if rows else ""
