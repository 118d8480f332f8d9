"""Stage 5: the payment network on a frozen allocation, by revenue and ex-post regret (EGA Eq. 25-26, 33-35).

The allocation is re-run for every misreport, once: tables of (list, click probability) over absolute own bids are
computed for some training requests when the stage starts, kept beside the checkpoints, and read as batches.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ega_jax.data.pipeline import from_arrays, read_split
from ega_jax.losses.lagrangian import payment_loss, table_regret
from ega_jax.models.payment import PaymentNetwork
from ega_jax.stages.batches import REQUEST, main_folds
from ega_jax.systems.payment import Profiles, inputs_of, network_price, score_without
from ega_jax.systems.pricing import NUM_COMPETITORS, PaymentInputs, value_nodes
from ega_jax.training.stage import Stage

INPUTS = ("theta", "bids", "is_ad", "competitors", "slot", "pivot", "z")


def payment_stage(
  config, system_of, network: PaymentNetwork, workdir, *, name="payment", source="policy", process=(0, 1)
) -> Stage:
  """Returns the stage that trains `network` on the allocation of `system_of(params)`.

  Args:
    system_of: params of stage `source` -> the system whose allocation is frozen and priced.
  """
  options = config.payment

  def init(rng, previous):
    fresh = init_network(rng, network, config.list_length)
    multiplier = jnp.asarray(options.multiplier, jnp.float32)
    return {**previous[source], "payment": {"network": fresh, "multiplier": multiplier}}

  def loss(params, batch, rng):
    inputs = PaymentInputs(**{key: batch[key] for key in INPUTS})
    scale = params["market"]["bid_scale"]
    price = lambda straight_through: network_price(
      network, params["payment"]["network"], inputs, batch["nodes"], scale, straight_through=straight_through
    ) / scale
    truthful, misreport = price(True), price(False)
    nodes, x = batch["nodes"] / scale, batch["x"]
    own = jax.random.categorical(rng, jnp.log(batch["weight"])[:, None], shape=(len(x), options["values"]))
    regret = sampled_regret(truthful, misreport, x, nodes, own)
    at = lambda a: jnp.take_along_axis(a, own, axis=1)
    return payment_loss(
      at(truthful), at(x), at(nodes), at(nodes), regret, params["payment"]["multiplier"], options.penalty
    )

  def batches(previous):
    cache = None if workdir is None else os.path.join(workdir, f"counterfactual_{source}.npz")
    columns = payment_tables(config, system_of(previous[source]), previous[source], cache)
    return from_arrays(
      columns, options.batch_size, config.seed, process_index=process[0], process_count=process[1]
    )  # fmt: skip

  schedule = optax.cosine_decay_schedule(options.learning_rate, max(options.steps, 1))
  # The loss is linear in the multiplier: ascent on it with a constant step is Eq. 35.
  optimizer = optax.multi_transform(
    {"network": optax.adam(schedule), "multiplier": optax.scale(options.multiplier_step)}, _labels
  )
  return Stage(
    name=name, init=init, loss=loss, batches=batches, optimizer=optimizer, trainable="^payment/",
    num_steps=options.steps,
  )  # fmt: skip


def init_network(rng, network, length):
  """Returns fresh parameters of the payment network for lists of a length."""
  zeros = jnp.zeros((1, length))
  extra = {"z": zeros} if network.config.payment == "rate" else {"pivot": jnp.zeros(1)}
  inputs = (zeros, zeros, zeros > 0, jnp.zeros((1, NUM_COMPETITORS, 2)), jnp.zeros(1, jnp.int32))
  return network.init(rng, *inputs, **extra)["params"]


def _labels(params):
  name = lambda path: "multiplier" if "multiplier" in jax.tree_util.keystr(path) else "network"
  return jax.tree_util.tree_map_with_path(lambda path, _: name(path), params)


def sampled_regret(truthful, misreport, x, nodes, own):
  """Returns ex-post regret f32[B, S] of values nodes[own i32[B, S]], over every node as a misreport (EGA Eq. 6).

  Args: truthful, misreport: prices f32[B, G] with the gradient of a truthful report and of a misreport (`cap_price`).
  """
  spread = lambda a: jnp.broadcast_to(a[:, None], (*own.shape, a.shape[-1]))
  own_prices = jnp.take_along_axis(truthful, own, axis=1)
  return table_regret(spread(misreport), spread(x), spread(nodes), own, own_prices=own_prices)


def payment_tables(config, system, params, cache):
  """Returns columns [R * A, G, ...]: per (request, ad) the payment inputs, click probability and weight of every node.

  Ads are chosen without a look at the own bid's effect beyond the list: those shown at the logged bids and random ones.
  A table is the same whenever it is computed; `cache` (a path or None) saves the minutes after an interruption.
  """
  if cache and os.path.isfile(cache):
    with np.load(cache) as stored:
      return dict(stored)
  options = config.payment
  rows = _rows(config)
  columns = read_split(config.data, "train", REQUEST, rows)
  parts = []
  rng = np.random.default_rng(config.seed)
  chunk = config.evaluation.chunk
  for start in range(0, len(rows) - len(rows) % chunk, chunk):
    batch = {key: value[start : start + chunk] for key, value in columns.items()}
    parts.append(_batch_tables(options, system, params, batch, rng, config.value_sigma))
  tables = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
  if cache:
    os.makedirs(os.path.dirname(cache), exist_ok=True)
    with open(cache + ".part", "wb") as file:
      np.savez(file, **tables)
    os.replace(cache + ".part", cache)
  return tables


def _rows(config):
  """Returns the positions of the newest training requests of the main folds: the market when payments start."""
  folds = read_split(config.data, "train", ("fold",))["fold"]
  eligible = np.flatnonzero(np.isin(folds, main_folds(config)))
  recent = eligible[-5 * config.payment.requests :]
  size = min(config.payment.requests, len(recent))
  return np.sort(np.random.default_rng(config.seed).choice(recent, size, replace=False))


def _batch_tables(options, system, params, batch, rng, sigma):
  bids = np.asarray(batch["bid"], np.float32)
  items = system.allocate(batch, bids[:, None]).items[:, 0]
  ads = _chosen_ads(batch, items, options.ads, rng)
  mu = np.take_along_axis(batch["value_mu"], np.maximum(ads, 0), axis=1)
  nodes = value_nodes(mu, sigma, options.nodes)
  slate = system.sweep(batch, bids, ads, nodes)
  first = jax.tree.map(lambda leaf: leaf[:, :, 0], slate)
  without = np.repeat(score_without(system, batch, bids, ads, first), options.nodes, axis=1)
  requests, num_ads, num_nodes = nodes.shape
  flat = lambda leaf: leaf.reshape(requests, num_ads * num_nodes, -1)
  profiles = Profiles(
    np.repeat(ads, num_nodes, axis=1), nodes.reshape(requests, -1), flat(slate.items), flat(slate.click_probability)
  )
  inputs = inputs_of(system, params, batch, bids, profiles, without, with_z=True)
  own = (slate.items == ads[..., None, None]) & (ads[..., None, None] >= 0)
  tables = {key: np.asarray(getattr(inputs, key)) for key in INPUTS}
  tables = {key: leaf.reshape(requests * num_ads, num_nodes, *leaf.shape[2:]) for key, leaf in tables.items()}
  tables["nodes"] = nodes.reshape(-1, num_nodes).astype(np.float32)
  tables["x"] = np.where(own, slate.click_probability, 0).sum(-1).reshape(-1, num_nodes).astype(np.float32)
  tables["weight"] = _node_weights(nodes, mu, sigma).reshape(-1, num_nodes).astype(np.float32)
  useful = (ads >= 0).reshape(-1) & (tables["x"].max(-1) > 0)
  return {key: leaf[useful] for key, leaf in tables.items()}


def _chosen_ads(batch, items, count, rng):
  """Returns i32[B, count]: the shown ads, then random unshown ones; -1 where there are fewer."""
  eligible = batch["is_ad"] & (batch["candidates"] >= 0)
  shown = (items[:, :, None] == np.arange(eligible.shape[1])).any(1)
  draw = rng.random(eligible.shape) + np.where(shown, 0.0, 1.0)
  order = np.argsort(np.where(eligible, draw, 3.0), axis=1)[:, :count]
  return np.where(np.take_along_axis(eligible, order, 1), order, -1).astype(np.int32)


def _node_weights(nodes, mu, sigma):
  """Returns the lognormal probability f64[..., G] that a value rounds down to each node."""
  from scipy import stats

  with np.errstate(divide="ignore"):
    below = stats.norm.cdf((np.log(nodes) - mu[..., None]) / sigma)
  return np.maximum(np.diff(below, axis=-1, append=1.0), 0.0) + 1e-12
