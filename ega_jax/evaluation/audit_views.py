"""What the report takes from an audit: revenue per request, example curves, the scatter of payments."""

import numpy as np

from ega_jax.auction import regret


def myerson_totals(audit):
  """Returns the totals of the audited requests under the Myerson integral of their curves, for `market.parts`.

  "slots" and "requests" f64[n], "user" i[n], "model/revenue" and, with a world, "true/revenue" f64[n].
  """
  slots = np.asarray(audit["slots"], np.float64)
  totals = {"slots": slots, "requests": np.ones(len(slots)), "user": audit["user"]}
  for evaluator in ("model", "true"):
    if f"x/{evaluator}" in audit:
      paid = regret.take_node(audit["myerson"] * audit[f"x/{evaluator}"], audit["own"])
      totals[f"{evaluator}/revenue"] = np.where(audit["shown"], paid, 0.0).sum(-1)
  return totals


def example_curves(audit, count=4):
  """Returns up to `count` own-bid curves for the report, those of the shown ads that pay most, one per request."""
  paid = np.where(audit["shown"], regret.take_node(audit["price"] * audit["x/model"], audit["own"]), -1.0)
  rows = np.argsort(-paid.max(1), kind="stable")[:count]
  curves = []
  for row in rows[paid[rows].max(1) > 0]:
    ad = paid[row].argmax()
    curve = {name: audit[name][row, ad] for name in ("nodes", "price", "myerson")}
    title = f"request {audit['row'][row]}, ad {audit['ads'][row, ad]}"
    curves.append(curve | {"x": audit["x/model"][row, ad], "value": float(audit["value"][row, ad]), "title": title})
  return curves


def payment_scatter(audit):
  """Returns dict(myerson, own): expected payments of the shown ads at truth, by the Myerson integral and the rule."""
  x, shown = audit["x/model"], audit["shown"]
  return {name: regret.take_node(audit[key] * x, audit["own"])[shown]
          for name, key in (("myerson", "myerson"), ("own", "price"))}
