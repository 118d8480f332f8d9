"""Constants of the market, fitted on training logs before any list is generated."""

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.data.pipeline import read_split
from ega_jax.stages.batches import REQUEST
from ega_jax.systems import generation
from ega_jax.systems.balance import equal_load, logged_ad_share, mean_ad_share
from ega_jax.systems.merge import ad_share, greedy_merge
from ega_jax.types import Request

SAMPLE = 256


def market_constants(config, models, params):
  """Returns {"bid_scale", "organic_weight"}: the median bid, and what an organic click is worth in money.

  The weight is where the greedy list by (bid or weight) * pCTR, every item judged alone, has the ad share of the logs:
  the platform's own exchange rate between revenue and organic clicks. Fixed here, before bids are seen.
  """
  logs = read_split(config.data, "train", ("shown_item", "is_ad", "bid", "candidates"))
  shown = logs["shown_item"]
  target = float(ad_share(shown[:, None], logs["is_ad"]))
  bid_scale = float(np.median(logs["bid"][logs["is_ad"] & (logs["candidates"] >= 0)]))
  rows = np.linspace(0, len(shown) - 1, min(SAMPLE, len(shown))).astype(int)
  request = Request.from_batch(read_split(config.data, "train", REQUEST, rows))
  theta = np.concatenate([_alone(models, params, _rows(request, i)) for i in np.array_split(np.arange(len(rows)), 16)])
  valid = request.candidates >= 0

  def share(weight):
    score = np.where(request.is_ad, request.bid, weight) * theta
    return float(ad_share(greedy_merge(score[:, None], request.is_ad, valid, config.list_length), request.is_ad))

  found = equal_load(share, target, 1e-3 * bid_scale, 1e3 * bid_scale, tolerance=1e-4, max_trials=40)
  return {"bid_scale": jnp.float32(bid_scale), "organic_weight": jnp.float32(found.knob)}


def _rows(request, index):
  return jax.tree.map(lambda leaf: leaf[index], request)


def _alone(models, params, request):
  """Returns click probabilities f32[B, C] of each candidate shown alone, with its best creative."""
  logits = generation.alone(models, params, jax.tree.map(jnp.asarray, request))["poi"]
  return np.asarray(jax.nn.sigmoid(jnp.max(logits, axis=-1)))


def balanced_scale(config, system):
  """Returns the organic scale f32[] at which a system's ad share on validation is that of the logging policy."""
  logs = read_split(config.data, "validation", ("shown_item", "is_ad", "explored"))
  chunk, total = config.evaluation.chunk, len(logs["is_ad"])
  count = max(min(config.evaluation.load_requests, total) // chunk, 1) * chunk
  columns = read_split(config.data, "validation", REQUEST, np.linspace(0, total - 1, count).astype(int))
  share = lambda scale: mean_ad_share(system.with_knob(scale), columns, chunk)
  return jnp.float32(equal_load(share, logged_ad_share(logs), 0.05, 20.0, start=1.0).knob)
