"""Reader of real clearing prices in the public iPinYou benchmark format; they give the shape of advertisers' levels.

A file holds one campaign: a header line, then rows `click market_price pCTR` separated by blanks or tabs, with a line
of one number before every 1000 rows. Prices are CPM units, not values per click: only their shape is used.
"""

import numpy as np


def read_prices(path):
  """Returns dict of click i8[n], price f32[n] (CPM units), pctr f32[n].

  Raises:
    ValueError: naming the file and line, for a row that is not `click price pCTR` with click 0 or 1 and price >= 0.
  """
  rows = []
  with open(path, encoding="utf-8") as lines:
    for number, line in enumerate(lines, 1):
      fields = line.split()
      if number == 1 or len(fields) == 1:
        continue
      rows.append(_row(fields, path, number))
  if not rows:
    raise ValueError(f"{path}: no rows `click market_price pCTR` after the header line")
  click, price, pctr = zip(*rows, strict=True)
  return {"click": np.array(click, np.int8), "price": np.array(price, np.float32), "pctr": np.array(pctr, np.float32)}


def _row(fields, path, number):
  try:
    click, price, pctr = (float(field) for field in fields)
  except ValueError:
    raise ValueError(f"{path}:{number}: {' '.join(fields)!r}, allowed: `click market_price pCTR`") from None
  if click not in (0, 1) or not 0 <= price < float("inf") or not 0 <= pctr <= 1:
    raise ValueError(f"{path}:{number}: {' '.join(fields)!r}, allowed: click 0 or 1, price >= 0, pCTR in [0, 1]")
  return click, price, pctr


def level_log_sd(path):
  """Returns the log-sd of a campaign's positive clearing prices, for WorldConfig.level_log_sd.

  Raises: ValueError as `read_prices`, or with fewer than two positive prices.
  """
  price = read_prices(path)["price"]
  positive = price[price > 0]
  if len(positive) < 2:
    raise ValueError(f"{path}: {len(positive)} positive prices, allowed: at least 2")
  return float(np.log(positive).std())
