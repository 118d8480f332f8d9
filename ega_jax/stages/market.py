"""Constants of the market, fitted on training logs before any list is generated."""

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.data.pipeline import read_split
from ega_jax.stages.batches import REQUEST
from ega_jax.systems import generation
from ega_jax.systems.balance import balance
from ega_jax.systems.merge import ad_share, greedy_merge
from ega_jax.types import Request

SAMPLE = 256
LOAD_TOLERANCE = 0.003  # of the ad share: .01 moves welfare by some per cents


def market_constants(config, models, params):
  """Returns {"bid_scale", "organic_weight"}: the median bid, and what an organic click is worth in money.

  The weight is where the greedy list by (bid or weight) * pCTR, every item judged alone, has the ad share of the logs:
  the platform's own exchange rate between revenue and organic clicks. Fixed here, before bids are seen.
  """
  logs = read_split(config.data, "train", ("shown_item", "is_ad", "bid", "candidates"))
  shown = logs["shown_item"]
  ads = np.take_along_axis(logs["is_ad"], np.maximum(shown, 0), axis=1) & (shown >= 0)
  target = ads.sum() / np.maximum((shown >= 0).sum(), 1)
  bid_scale = float(np.median(logs["bid"][logs["is_ad"] & (logs["candidates"] >= 0)]))
  rows = np.linspace(0, len(shown) - 1, min(SAMPLE, len(shown))).astype(int)
  request = Request.from_batch(read_split(config.data, "train", REQUEST, rows))
  theta = np.concatenate([_alone(models, params, _rows(request, i)) for i in np.array_split(np.arange(len(rows)), 16)])
  valid = request.candidates >= 0

  def share(weight):
    score = np.where(request.is_ad, request.bid, weight) * theta
    return float(ad_share(greedy_merge(score[:, None], request.is_ad, valid, config.list_length), request.is_ad))

  return {"bid_scale": jnp.float32(bid_scale), "organic_weight": jnp.float32(bid_scale * balance(
    lambda weight: share(weight * bid_scale), target))}  # fmt: skip


def _rows(request, index):
  return jax.tree.map(lambda leaf: leaf[index], request)


def _alone(models, params, request):
  """Returns click probabilities f32[B, C] of each candidate shown alone, with its best creative."""
  logits = generation.alone(models, params, jax.tree.map(jnp.asarray, request))["poi"]
  return np.asarray(jax.nn.sigmoid(jnp.max(logits, axis=-1)))


def balanced_scale(config, system):
  """Returns the organic scale f32[] at which a system's ad share on validation is that of the logging policy."""
  logs = read_split(config.data, "validation", ("shown_item", "is_ad", "explored"))
  # Exploration is not the policy's choice: without it this is the share that every system is compared at.
  chosen = ~logs["explored"]
  shown = logs["shown_item"][chosen]
  ads = np.take_along_axis(logs["is_ad"][chosen], np.maximum(shown, 0), axis=1) & (shown >= 0)
  target = ads.sum() / np.maximum((shown >= 0).sum(), 1)
  chunk, total = config.evaluation.chunk, len(chosen)
  count = max(min(config.evaluation.load_requests, total) // chunk, 1) * chunk
  rows = np.linspace(0, total - 1, count).astype(int)
  columns = read_split(config.data, "validation", REQUEST, rows)

  def share(scale):
    tried = system.with_knob(scale)
    items = [tried.allocate(batch, batch["bid"][:, None]).items for batch in _batches(columns, chunk)]
    return float(ad_share(np.concatenate(items), columns["is_ad"]))

  return jnp.float32(balance(share, target, low=0.05, high=20.0, tolerance=LOAD_TOLERANCE, max_trials=12, start=1.0))


def _batches(columns, chunk):
  for start in range(0, len(columns["is_ad"]), chunk):
    yield {key: value[start : start + chunk] for key, value in columns.items()}
