"""Evaluation of a system with a payment rule over requests: chunked, and kept per request.

A system has a `name` and `allocate(batch, bids f[B, G, C]) -> types.Slate`. A payment rule has
`price(batch, bids f[B, G, C], slate) -> f[B, G, K]`, a price per click, 0 for organic items. `batch` holds request
columns (a dict of arrays [B, ...]); nothing of the world reaches a system through it.
"""

import numpy as np

from ega_jax.auction import values
from ega_jax.evaluation import market
from ega_jax.systems.rows import at_items


def take(columns, index):
  """Returns the rows `index` (slice or i[n]) of every column."""
  return {name: column[index] for name, column in columns.items()}


def chunks(columns, chunk_size):
  """Yields (count, columns of chunk_size requests), of which the first `count` are new.

  The last chunk is filled up with its last request, so that a jitted system compiles for one batch size.
  """
  total = len(next(iter(columns.values())))
  chunk_size = min(chunk_size, total)
  for start in range(0, total, chunk_size):
    rows = np.minimum(np.arange(start, start + chunk_size), total - 1)
    yield min(chunk_size, total - start), take(columns, rows)


def truthful(batch, shading=1.0):
  """Returns bids f32[B, 1, C]: every ad bids shading * its value (the logged bids are truthful)."""
  return (np.float32(shading) * np.asarray(batch["bid"], np.float32))[:, None, :]


def model_clicks(theta_model, batch, slate):
  """Returns (poi, creative or None, conversion or None), each [B, G, K], as predicted.

  Args: theta_model: None for the system's own belief (POI clicks only), or a function (batch, slate) -> dict with "poi"
    and possibly "creative", "conversion": the probabilities of another reward model.
  """
  if theta_model is None:
    return np.asarray(slate.click_probability), None, None
  predicted = theta_model(batch, slate)
  return tuple(None if predicted.get(name) is None else np.asarray(predicted[name])
               for name in ("poi", "creative", "conversion"))


def true_clicks(world, batch, slate):
  """Returns (poi, creative, conversion) f64[B, G, K] of the world for a slate; 0 where nothing is shown."""
  shown = np.asarray(slate.items) >= 0
  truth = world.click_probabilities(np.asarray(batch["row"]), np.asarray(slate.items), np.asarray(slate.creatives))
  return tuple(np.where(shown, part, 0.0) for part in truth)


def virtual_values(batch, sigma):
  """Returns phi f64[B, C] of ads' values, lognormal of the batch's "value_mu" and `sigma`, not ironed; 0 elsewhere."""
  location = np.exp(np.asarray(batch["value_mu"], np.float64))
  relative = np.where(batch["is_ad"], np.asarray(batch["bid"], np.float64) / location, 1.0)
  virtual = location * values.Lognormal(0.0, sigma).virtual_value(relative, ironed=False)
  return np.where(batch["is_ad"], virtual, 0.0)


def alike(columns, items, chunk_size):
  """Yields (count, rows i[chunk_size], columns of them): `chunks` of requests that show as many ads as the others of
  theirs, in lists items i[n, K], and which of all requests they are.

  A sweep over own bids takes as long as the request with the most ads of its batch.
  """
  order = np.argsort(at_items(columns["is_ad"], items, False).sum(-1), kind="stable")
  for count, batch in chunks({**take(columns, order), "_row": order}, chunk_size):
    yield count, batch.pop("_row"), batch


def chunks_by_ads(system, columns, chunk_size, shading=1.0):
  """Yields (count, rows, columns of them, lists i[chunk_size, K]): `alike` by the lists of bids shading * value."""
  lists = [np.asarray(system.allocate(batch, truthful(batch, shading)).items)[:count, 0]
           for count, batch in chunks(columns, chunk_size)]
  lists = np.concatenate(lists)
  for count, rows, batch in alike(columns, lists, chunk_size):
    yield count, rows, batch, lists[rows]


def price_by_ads(payment_rule, columns, slates, shading=1.0, chunk_size=64):
  """Returns [price f[B, 1, K] per click of each chunk]: requests are priced with those `alike`.

  Args: slates: of the `chunks` of columns, at bids shading * value.
  """
  sizes = [count for count, _ in chunks(columns, chunk_size)]
  leaves = [[np.asarray(leaf)[:size] for leaf in vars(slate).values()]
            for size, slate in zip(sizes, slates, strict=True)]
  shown = type(slates[0])(*(np.concatenate(parts) for parts in zip(*leaves, strict=True)))
  price = np.zeros(shown.items.shape)
  for count, rows, batch in alike(columns, shown.items[:, 0], chunk_size):
    slate = type(shown)(*(leaf[rows] for leaf in vars(shown).values()))
    price[rows[:count]] = np.asarray(payment_rule.price(batch, truthful(batch, shading), slate))[:count]
  return [part["price"] for _, part in chunks({"price": price}, chunk_size)]


def evaluate_system(
  system, payment_rule, columns, world=None, theta_model=None, *, shading=1.0, sigma=None, chunk_size=64
):
  """Returns per-request totals, a dict of f64[n] (market.OF_NOBODY, "model/..." and, with a world, "true/...").

  Args: system, payment_rule: see the module; columns: request columns of all n requests, "row" and "user" among them;
    shading: every ad bids shading * value (1 = truthful); theta_model: see `model_clicks`; sigma: log-sd of values,
    with which the virtual surplus is added: its mean is that of the unclipped Myerson integral, whether curves fall or
    not, without a sweep (Myerson 1981); chunk_size: requests allocated at once.
  Also returned: "user" i[n], for the clustered bootstrap.
  """
  slates = [system.allocate(batch, truthful(batch, shading)) for _, batch in chunks(columns, chunk_size)]
  prices = price_by_ads(payment_rule, columns, slates, shading, chunk_size)
  blocks = []
  for (count, batch), slate, price in zip(chunks(columns, chunk_size), slates, prices, strict=True):
    bids = truthful(batch, shading)
    items, ads = np.asarray(slate.items), at_items(batch["is_ad"], slate.items, False)
    block = market.layout_totals(items, ads)
    block["violations"] = market.violations(items, ads, at_items(bids[:, 0], items), price)
    predictions = {"model": model_clicks(theta_model, batch, slate)}
    value = at_items(batch["bid"], items)
    virtual = None if sigma is None else at_items(virtual_values(batch, sigma), items)
    if world is not None:
      predictions["true"] = true_clicks(world, batch, slate)
    for evaluator, clicks in predictions.items():
      totals = market.click_totals(items, ads, value, price, *clicks, virtual=virtual)
      block.update({f"{evaluator}/{name}": total for name, total in totals.items()})
    blocks.append({name: total[:count, 0] for name, total in block.items()})
  totals = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
  return totals | {"user": np.asarray(columns["user"])}
