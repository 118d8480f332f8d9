"""What a slate earns: totals per request under given click probabilities, and figures as ratios of sums of them.

An impression is one displayed item, ad or organic; payment is due on a POI click. Totals, not ratios, are kept per
request, so that bootstrap intervals and paired differences can be formed later. Two evaluators are told apart: `model`
(the reward model's own predictions, EGA's protocol) and `true` (the world's click probabilities, not sampled clicks).
"""

import numpy as np

# name -> (scale, numerator, denominator): the figure is scale * sum(numerator) / sum(denominator) over requests.
FIGURES = {
  "rpm": (1000.0, "revenue", "slots"),
  "ctr_poi": (1.0, "clicks", "impressions"),
  "ctr_poi_ads": (1.0, "ad_clicks", "ad_impressions"),
  "ctr_poi_organic": (1.0, "organic_clicks", "organic_impressions"),
  "ctr_img": (1.0, "creative_clicks", "impressions"),
  "welfare": (1.0, "welfare", "requests"),
  "rpm_surplus": (1000.0, "virtual_surplus", "slots"),
  "clicks": (1.0, "clicks", "requests"),
  "conversions": (1.0, "conversions", "requests"),
  "price_per_click": (1.0, "revenue", "ad_clicks"),
}
# Figures and totals that do not depend on who predicts the clicks.
LAYOUT = {
  "ad_share": (1.0, "ad_impressions", "impressions"),
  "ir_violations": (1.0, "violations", "ad_impressions"),
}
LAYOUT_TOTALS = ("requests", "slots", "impressions", "ad_impressions", "organic_impressions")
OF_NOBODY = (*LAYOUT_TOTALS, "violations")  # totals that no evaluator's clicks enter


def layout_totals(items, is_ad):
  """Returns LAYOUT_TOTALS, what does not depend on clicks, f64[...] per list.

  Args: items i[..., K] positions in the candidates, -1 where a slot stays empty; is_ad bool[..., K] of the shown.
  """
  shown = np.asarray(items) >= 0
  ads = shown & np.asarray(is_ad, bool)
  one = np.ones(shown.shape[:-1])
  return {
    "requests": one,
    "slots": one * shown.shape[-1],
    "impressions": shown.sum(-1).astype(np.float64),
    "ad_impressions": ads.sum(-1).astype(np.float64),
    "organic_impressions": (shown & ~ads).sum(-1).astype(np.float64),
  }


def violations(items, is_ad, bid, price):
  """Returns f64[...]: how many items of each list pay what individual rationality forbids (EGA Eq. 5): an ad more than
  its bid or less than nothing, beyond rounding, an organic item anything.

  Args: items, is_ad, bid and price per click, all [..., K].
  """
  shown = np.asarray(items) >= 0
  most = np.where(is_ad, np.asarray(bid, np.float64), 0.0)
  slack = 1e-6 * np.maximum(most, 1.0)
  return (shown & ((price > most + slack) | (price < -slack))).sum(-1).astype(np.float64)


def click_totals(items, is_ad, value, price, poi, creative=None, conversion=None, *, virtual=None):
  """Returns expected totals per list, f64[...], over the shown items (EGA Eq. 2).

  clicks, ad_clicks, organic_clicks, revenue = sum p x and welfare = sum v x over ads; creative_clicks and conversions
  if their probabilities are given, virtual_surplus = sum phi x over ads if virtual values are.

  Args: all [..., K]: items, is_ad; value and price per click (read at ads only); marginal probabilities of a POI
    click, a creative click and a conversion; virtual value phi per click.
  """
  shown = np.asarray(items) >= 0
  ads = shown & np.asarray(is_ad, bool)
  poi = np.where(shown, np.asarray(poi, np.float64), 0.0)
  totals = {
    "clicks": poi.sum(-1),
    "ad_clicks": (poi * ads).sum(-1),
    "organic_clicks": (poi * (shown & ~ads)).sum(-1),
    "revenue": np.where(ads, poi * price, 0.0).sum(-1),
    "welfare": np.where(ads, poi * value, 0.0).sum(-1),
  }
  if creative is not None:
    totals["creative_clicks"] = np.where(shown, creative, 0.0).sum(-1, dtype=np.float64)
  if virtual is not None:
    totals["virtual_surplus"] = np.where(ads, poi * virtual, 0.0).sum(-1)
  if conversion is not None:
    totals["conversions"] = np.where(shown, conversion, 0.0).sum(-1, dtype=np.float64)
  return totals


def parts(totals, figure):
  """Returns (scale, numerator f64[n], denominator f64[n]) of a figure: "ad_share", "model/rpm", "true/ctr_poi", ...

  Raises: ValueError naming the figure if it is unknown or its totals were not computed.
  """
  evaluator, _, name = figure.rpartition("/")
  table = FIGURES if evaluator else LAYOUT
  if name not in table:
    raise ValueError(f"unknown figure {figure!r}; allowed: {sorted(LAYOUT)}, model/ or true/ {sorted(FIGURES)}")
  scale, numerator, denominator = table[name]
  keys = [key if key in OF_NOBODY else f"{evaluator}/{key}" for key in (numerator, denominator)]
  if not all(key in totals for key in keys):
    raise ValueError(f"figure {figure!r} needs the totals {keys}; there are {sorted(totals)}")
  return scale, totals[keys[0]], totals[keys[1]]


def available(totals):
  """Returns the names of the figures that `totals` can give, in the order of the report."""
  names = [name for name, (_, *keys) in LAYOUT.items() if all(key in totals for key in keys)]
  for evaluator in ("model", "true"):
    for name, (_, *keys) in FIGURES.items():
      if all(key in OF_NOBODY or f"{evaluator}/{key}" in totals for key in keys):
        names.append(f"{evaluator}/{name}")
  return names


def summarise(totals):
  """Returns {figure: float} over all requests of `totals` (from `systems.evaluate_system`); nan over nothing."""
  figures = {}
  for name in available(totals):
    scale, numerator, denominator = parts(totals, name)
    weight = denominator.sum()
    figures[name] = float(scale * numerator.sum() / weight) if weight > 0 else float("nan")
  return figures


def by_user(totals):
  """Returns the totals summed per user, f64[users] each, "user" i[users]: all that figures and the user-clustered
  bootstrap read, in a fraction of the room.
  """
  users, index = np.unique(np.asarray(totals["user"]), return_inverse=True)
  sums = {name: np.bincount(index, weights=total, minlength=len(users))
          for name, total in totals.items() if name != "user"}
  return sums | {"user": users}
