"""Constants of the market, fitted on training logs before any list is generated."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.data.pipeline import read_split
from ega_jax.decoding.slate import Objective
from ega_jax.stages.batches import REQUEST, evenly
from ega_jax.systems import generation
from ega_jax.systems.balance import LOADS, NEAR, TOLERANCE, balanced_knob, equal_load, logged_ad_share
from ega_jax.systems.merge import ad_share, greedy_merge
from ega_jax.systems.rows import at_items
from ega_jax.training.writers import Progress
from ega_jax.types import Request

SAMPLE = 256


def market_constants(config, models, params):
  """Returns {"bid_scale", "organic_weight", "slot_price"}, fixed before bids are seen: the median bid; what an organic
  click is worth, in money; the price of an ad slot, in median bids.

  A click on an organic item is worth what a click on an ad earned the platform in the logs, on average. The price is
  where the greedy list by bid * pCTR - price against weight * pCTR, every item judged alone, has the ad share of the
  logs: a load is set by the multiplier of its constraint, which does not move the exchange rate of money and clicks.

  Args: config: the experiment's config; models, params: as in `systems.generation`, with the fitted reward model.
  Raises: ValueError where no ad was clicked in the training logs.
  """
  logs = read_split(config.data, "train", ("shown_item", "shown_payment", "click", "is_ad", "bid", "candidates"))
  shown = logs["shown_item"]
  target = float(ad_share(shown[:, None], logs["is_ad"]))
  bid_scale = float(np.median(logs["bid"][logs["is_ad"] & (logs["candidates"] >= 0)]))
  clicked = at_items(logs["is_ad"], shown, False) & (logs["click"] > 0)
  if not clicked.any():
    raise ValueError(f"{config.data}: no ad was clicked in the training logs, so that a click has no worth")
  weight = float(logs["shown_payment"][clicked].mean())
  rows = np.linspace(0, len(shown) - 1, min(SAMPLE, len(shown))).astype(int)
  request = Request.from_batch(read_split(config.data, "train", REQUEST, rows))
  theta = np.concatenate([_alone(models, params, _rows(request, i)) for i in np.array_split(np.arange(len(rows)), 16)])
  valid = request.candidates >= 0

  def share(price):
    score = Objective(weight, price * bid_scale).worth(theta, request.bid, request.is_ad)
    return float(ad_share(greedy_merge(score[:, None], request.is_ad, valid, config.list_length), request.is_ad))

  found = equal_load(share, target, *LOADS, tolerance=1e-4, max_trials=40, scale="linear", start=0.0)
  constants = {"bid_scale": bid_scale, "organic_weight": weight, "slot_price": found.knob}
  return {name: jnp.float32(value) for name, value in constants.items()}


def _rows(request, index):
  return jax.tree.map(lambda leaf: leaf[index], request)


def _alone(models, params, request):
  """Returns click probabilities f32[B, C] of each candidate shown alone, with its best creative."""
  logits = generation.alone(models, params, jax.tree.map(jnp.asarray, request))["poi"]
  return np.asarray(jax.nn.sigmoid(jnp.max(logits, axis=-1)))


def balanced_price(config, system, *, roughly=False):
  """Returns the slot price, in median bids, at which a system's ad share on validation is the logging policy's.

  roughly: on a quarter of the requests, to NEAR: where what follows sets the price again.
  """
  few, fine = balancing_requests(config, share=0.25 if roughly else 1.0)
  return balanced_knob(
    system, few, target_ad_share(config.data), config.evaluation.chunk, config.list_length,
    tolerance=NEAR if roughly else TOLERANCE, fine=None if roughly else fine, say=Progress(system.name, 0).say,
  )  # fmt: skip


def balancing_requests(config, share=1.0):
  """Returns (request columns and "row" of a `share` of the validation requests on which ad load is balanced, and of the
  more on which the search ends, None where config.evaluation asks for no more).
  """
  options = config.evaluation
  some = lambda count: evenly(config.data, "validation", (*REQUEST, "row"), count, options.chunk)
  more = options.fine_load_requests > options.load_requests
  return some(math.ceil(share * options.load_requests)), some(options.fine_load_requests) if more else None


def target_ad_share(directory):
  """Returns the ad share to which every system is balanced: the logging policy's on validation."""
  return logged_ad_share(read_split(directory, "validation", ("shown_item", "explored", "is_ad")))
