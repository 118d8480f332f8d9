"""Constants of the market: read off a few logs by hand, and the price at which a greedy list has the logs' ads."""

import types

import numpy as np
import pytest

import tiny_run
from ega_jax.data.pipeline import read_split
from ega_jax.stages import market
from ega_jax.stages.batches import REQUEST
from ega_jax.systems import balance
from ega_jax.systems.merge import ad_share
from ega_jax.types import Request
from oracles_evaluation import greedy_by_loop

LOGS = {
  "shown_item": np.array([[2, 0, 3], [0, 1, 2], [4, 2, -1]]),
  "click": np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]),
  "shown_payment": np.array([[2.0, 0.0, 4.0], [0.0, 0.0, 3.0], [7.0, 1.0, 50.0]], np.float32),
  "is_ad": np.array([[False, False, True, True, True]] * 3),
  "bid": np.array([[0, 0, 3.0, 8.0, 1.0], [0, 0, 5.0, 6.0, 7.0], [0, 0, 2.0, 4.0, 9.0]], np.float32),
  "candidates": np.array([[5, 6, 7, 8, 9], [1, 2, 3, 4, -1], [9, 8, 7, 6, 5]]),
}


def _constants(monkeypatch, logs, theta):
  """market_constants over the `logs` above, every candidate's click probability alone being theta [n, C]."""
  read = logs | {field: np.zeros((3, 1)) for field in REQUEST if field not in logs}
  take = lambda directory, split, columns, rows=slice(None): {name: read[name][rows] for name in columns}
  monkeypatch.setattr(market, "read_split", take)
  place = {tuple(row): n for n, row in enumerate(logs["candidates"].tolist())}
  rows_of = lambda request: [place[tuple(row)] for row in request.candidates.tolist()]
  alone = lambda models, params, request: theta[rows_of(request)].reshape(-1, theta.shape[1])
  monkeypatch.setattr(market, "_alone", alone)
  found = market.market_constants(types.SimpleNamespace(data="", list_length=3), None, None)
  assert set(found) == {"bid_scale", "organic_weight", "slot_price"}
  return {name: float(value) for name, value in found.items()}


def test_constants_by_hand(monkeypatch):
  theta = np.random.default_rng(0).uniform(0.05, 0.3, (3, 5))
  found = _constants(monkeypatch, LOGS, theta)
  assert found["bid_scale"] == 4.5  # the median of 1, 2, 3, 4, 5, 6, 8, 9: one of 7 is not there
  assert found["organic_weight"] == pytest.approx((2 + 3 + 7) / 3)  # clicked ads: the first, the sixth, the seventh

  def share(price):
    ads = shown = 0
    for bid, is_ad, candidates, click in zip(LOGS["bid"], LOGS["is_ad"], LOGS["candidates"], theta, strict=True):
      worth = np.where(is_ad, bid * click - price * 4.5, 4.0 * click)
      items = greedy_by_loop(worth, is_ad, candidates >= 0, 3)
      ads, shown = ads + sum(is_ad[i] for i in items if i >= 0), shown + sum(i >= 0 for i in items)
    return ads / shown

  grid = [share(price) for price in np.linspace(-2, 2, 401)]
  nearest = min(abs(one - 5 / 8) for one in grid)  # of 8 logged entries 5 are ads
  assert abs(share(found["slot_price"]) - 5 / 8) <= nearest + 1e-9
  assert max(grid) > 5 / 8 > min(grid)


def test_logs_without_a_clicked_ad_are_refused(monkeypatch):
  unclicked = LOGS | {"click": np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])}
  with pytest.raises(ValueError, match="no ad was clicked"):
    _constants(monkeypatch, unclicked, np.full((3, 5), 0.1))


def test_constants_of_the_tiny_run_are_those_of_its_logs():
  params = tiny_run.trained()[1]["reward"]
  found = {name: float(value) for name, value in params["market"].items()}
  logs = read_split(tiny_run.data(), "train", ("shown_item", "shown_payment", "click", "is_ad", "bid"))
  paid = [
    logs["shown_payment"][n, k]
    for (n, k), item in np.ndenumerate(logs["shown_item"])
    if item >= 0 and logs["is_ad"][n, item] and logs["click"][n, k] > 0
  ]
  assert found["organic_weight"] == pytest.approx(np.mean(paid), rel=1e-5)
  target = float(ad_share(logs["shown_item"][:, None], logs["is_ad"]))
  rows = np.linspace(0, len(logs["bid"]) - 1, min(market.SAMPLE, len(logs["bid"]))).astype(int)
  request = Request.from_batch(read_split(tiny_run.data(), "train", REQUEST, rows))
  theta = market._alone(tiny_run.models(), params, request)
  ads = total = 0
  for bid, is_ad, candidates, click in zip(request.bid, request.is_ad, request.candidates, theta, strict=True):
    worth = np.where(is_ad, bid * click - found["slot_price"] * found["bid_scale"], found["organic_weight"] * click)
    items = [i for i in greedy_by_loop(worth, is_ad, candidates >= 0, tiny_run.config().list_length) if i >= 0]
    ads, total = ads + is_ad[items].sum(), total + len(items)
  assert ads / total == pytest.approx(target, abs=0.005)


def test_a_balanced_price_has_the_logging_policys_share(capsys):
  class Threshold:
    """Shows as ads those that bid more than the price; `knob` is where the search starts."""

    name = "threshold"

    def __init__(self, knob=0.0):
      self.knob = knob

    def with_knob(self, price):
      return Threshold(price)

    def allocate(self, batch, bids):
      ads = np.argsort(-np.where(batch["is_ad"], bids[:, 0], -1.0), 1)[:, :4]
      keep = np.take_along_axis(bids[:, 0], ads, 1) > self.knob
      organic = np.argmin(batch["is_ad"], 1)[:, None]
      return types.SimpleNamespace(items=np.where(keep, ads, organic)[:, None])

  config = tiny_run.config()
  price = market.balanced_price(config, Threshold())
  assert "threshold ad load: knob 0.0000, share " in capsys.readouterr().err  # a search of minutes is seen
  logs = read_split(tiny_run.data(), "validation", ("shown_item", "is_ad", "explored"))
  columns = read_split(
    tiny_run.data(), "validation", REQUEST, np.linspace(0, len(logs["is_ad"]) - 1, 64).astype(int)
  )
  share = balance.mean_ad_share(Threshold(price), columns, 8)
  assert price > 0 and share == pytest.approx(balance.logged_ad_share(logs), abs=0.01)
  market.balanced_price(config, Threshold(), roughly=True)
  trials = capsys.readouterr().err.splitlines()
  assert trials and all(line.endswith(f" on {config.evaluation.load_requests // 4} requests") for line in trials)


def test_the_search_ends_on_more_requests_where_they_are_asked_for():
  config = tiny_run.config().copy_and_resolve_references()
  config.evaluation.load_requests, config.evaluation.fine_load_requests, config.evaluation.chunk = 24, 43, 4
  total = len(read_split(config.data, "validation", ("row",))["row"])
  assert total > 48
  few, fine = market.balancing_requests(config)
  assert (len(few["row"]), len(fine["row"])) == (24, 40)
  for columns in (few, fine):  # from the first to the last day of the split, no stretch of it left out
    gaps = np.diff(columns["row"])
    assert gaps.min() >= 1 and np.ptp(gaps) <= 1 and np.ptp(columns["row"]) == total - 1
  assert len(market.balancing_requests(config, share=0.3)[0]["row"]) == 8
  config.evaluation.fine_load_requests = 24
  assert market.balancing_requests(config)[1] is None
