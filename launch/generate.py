"""Serves requests with a trained run: per request the list, its creatives, what each ad pays, and why.

python -m launch.generate --workdir=DIR --requests=FILE.jsonl --output=FILE.jsonl
  [--payment=price|rate|vcg_range|first_price]
FILE.jsonl has one request per line; `ega_jax/data/requests.py` says which fields, and
`python -m launch.prepare_data --export_requests=N` writes an example:
  {"id": "any text", "user": 12, "place": [1.5, -0.3], "hour": 37,
   "history": [{"poi": 4, "action": "visit", "hour": 30, "age": 7.0}], "successors": [{"poi": 9, "count": 3}],
   "candidates": [{"poi": 5}, {"poi": 7, "is_ad": true, "bid": 1.2, "value_mu": 0.1}]}
An answer, one line per request in the same order, lists of one entry per slot:
  {"id", "items": POI ids, "positions": in the request's candidates, "creatives", "is_ad", "pctr": click probability,
   "z": allocation probability given the slots before, "payments": per click, "expected_payment": sum of pctr * payment}
All requests are checked before anything runs. Exit codes: 0; 1 if the run failed; 2 for bad input.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
from absl import flags

from ega_jax.data.pipeline import read_catalog
from ega_jax.data.records import read_schema
from ega_jax.data.requests import Limits, read_requests
from launch import binary
from launch.finished import load_run

# Form: the stages it needs. vcg_range has lists of its own, generated without bids, and is exactly truthful.
PAYMENTS = {
  "price": ("policy", "payment"), "rate": ("policy", "payment_rate"), "vcg_range": ("policy_bid_free",),
  "first_price": ("policy",),
}  # fmt: skip


def define_flags():
  """Defines the flags; not on import, so that another binary's module can be imported beside this one."""
  flags.DEFINE_string("workdir", None, "Folder that launch.train filled.", required=True)
  flags.DEFINE_string("requests", None, "Requests, one JSON object per line.", required=True)
  flags.DEFINE_string("output", None, "Answers, one JSON object per line.", required=True)
  flags.DEFINE_string("payment", "price", f"Of {', '.join(PAYMENTS)}.")
  flags.DEFINE_integer("batch_size", 8, "Requests decoded at once.", lower_bound=1)


def main(overrides):
  """Returns the exit code."""
  values = flags.FLAGS
  if overrides:
    raise ValueError(f"{overrides[0]!r} is unknown here: the config is the run's own")
  if values.payment not in PAYMENTS:
    raise ValueError(f"--payment={values.payment}; allowed: {', '.join(PAYMENTS)}")
  binary.check_output(values.output)
  config, finals = load_run(values.workdir, PAYMENTS[values.payment])
  market = finals[PAYMENTS[values.payment][0]]["market"]
  requests = read_requests(values.requests, limits_of(config, market))
  system, rule = served(config, finals, values.payment)
  lines = answers(system, rule, requests, values.batch_size)
  Path(values.output).parent.mkdir(parents=True, exist_ok=True)
  part = f"{values.output}.part"
  Path(part).write_text("".join(json.dumps(line) + "\n" for line in lines))
  os.replace(part, values.output)
  print(f"{len(lines)} requests answered: {values.output}")
  return 0


def limits_of(config, market) -> Limits:
  """Returns what requests the models of a run can be given, at the constants of its `market`."""
  from ega_jax.decoding.constraints import largest_bid
  from ega_jax.stages import recipe
  from ega_jax.systems import generation, pricing

  catalog, users = read_catalog(config.data), read_schema(config.data)["sizes"]["users"]
  most, scale = largest_bid(generation.in_market(recipe.list_config(config), market)), float(market["bid_scale"])
  # Payments try own bids as high as the nodes of a value's distribution, and as low likewise.
  reach = math.log(most / scale / pricing.value_nodes(np.zeros(()), config.value_sigma, 3)[-1])
  mu = (math.log(scale) - reach, math.log(scale) + reach)
  return Limits(len(catalog.poi_place), users, np.asarray(catalog.creative_poi), config.list_length, most, mu)


def served(config, finals, payment):
  """Returns (system, payment rule): EGA as it is evaluated, at the ad load of its policy."""
  from ega_jax.evaluation.payments import FirstPrice
  from ega_jax.stages import recipe
  from ega_jax.systems.ega import Options
  from ega_jax.systems.payment import PivotPayment

  models, stage = recipe.build_models(config, recipe.data_sizes(config.data)), PAYMENTS[payment][-1]
  bid_free = Options(value_sigma=config.value_sigma, bid_free=True)
  options = bid_free if payment == "vcg_range" else None
  system = recipe.ega_system(config, models, finals[PAYMENTS[payment][0]], options)
  if payment in ("price", "rate"):
    return system, recipe.learned_payment(config, system, payment, finals[stage], stage)
  return system, PivotPayment(system) if payment == "vcg_range" else FirstPrice()


def answers(system, rule, requests, batch_size):
  """Returns one answer (a dict of JSON types) per request."""
  from ega_jax.evaluation.systems import chunks
  from ega_jax.systems.probabilities import shown_probabilities

  lines = []
  index = np.arange(len(requests.ids))
  for count, batch in chunks(requests.columns | {"request": index}, batch_size):
    which = batch.pop("request")
    bids = np.asarray(batch["bid"], np.float32)[:, None]
    slate = system.allocate(batch, bids)
    price = rule.price(batch, bids, slate)[:, 0]
    z = shown_probabilities(system, batch, bids, slate)
    for i in range(count):
      lines.append(answer(requests, which[i], batch, i, slate, price[i], z[i]))
  return lines


def answer(requests, number, batch, row, slate, price, z):
  """Returns the answer to request `number`, which is row `row` of a batch.

  Raises: FloatingPointError: no list was found, or a number is not finite: candidates were there.
  """
  items = np.asarray(slate.items)[row, 0]
  shown = items[items >= 0]
  kept = lambda values: np.asarray(values)[items >= 0]
  pctr = kept(slate.click_probability[row, 0]).astype(float)
  paid, probability = kept(price).astype(float), kept(z).astype(float)
  if not len(shown) or not np.isfinite([pctr, paid, probability]).all():
    raise FloatingPointError(f"request {requests.ids[number]!r}: its numbers lead beyond what float32 holds; no answer")
  return {
    "id": requests.ids[number],
    "items": batch["candidates"][row][shown].tolist(),
    "positions": requests.position[number][shown].tolist(),
    "creatives": kept(slate.creatives[row, 0]).tolist(),
    "is_ad": batch["is_ad"][row][shown].tolist(),
    "pctr": pctr.tolist(),
    "z": probability.tolist(),
    "payments": paid.tolist(),
    "expected_payment": float((pctr * paid).sum()),
  }


if __name__ == "__main__":
  define_flags()
  binary.run(main)
