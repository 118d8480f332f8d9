"""Stage 5: the payment network on a frozen allocation, by revenue and ex-post regret (EGA Eq. 25-26, 33-35).

The allocation is re-run for every misreport, once: tables of click probabilities over absolute own bids are computed
for some training requests when the stage starts, kept beside the checkpoints, and read as batches of
`losses.payment_tables`.
"""

import os

import jax.numpy as jnp
import numpy as np

from ega_jax.data.pipeline import from_arrays, read_split
from ega_jax.losses.payment_tables import payment_optimizer, tables_loss
from ega_jax.models.payment import RateInputs, menu_inputs, payment_network
from ega_jax.stages.batches import REQUEST, main_folds
from ega_jax.systems.kept import digest
from ega_jax.systems.pricing import node_weights, rate_inputs, value_location, value_nodes
from ega_jax.systems.rows import at_items, own_of
from ega_jax.training.stage import Stage
from ega_jax.training.writers import Progress

PROGRESS_EVERY = 5  # batches of requests between lines


def payment_stage(config, system_of, form, workdir, *, name="payment", source="policy", process=(0, 1)) -> Stage:
  """Returns the stage that trains the payment network of a form on the allocation of `system_of(params)`.

  Args:
    config: the experiment's config.
    system_of: params of stage `source` -> the system whose allocation is frozen and priced.
    form: "price" or "rate".
    workdir: folder in which the tables are kept; None: nowhere.
    name: of the stage. process: (index, count): which tables this process reads.
  """
  options, network = config.payment, payment_network(form)

  def init(rng, previous):
    example = example_inputs(form, options.nodes, config.list_length)
    fresh = network.init(rng, example, jnp.zeros((1, 1)))["params"]
    multiplier = jnp.asarray(options.multiplier, jnp.float32)
    return {**previous[source], "payment": {"network": fresh, "multiplier": multiplier}}

  def loss(params, batch, rng):
    del rng
    inputs = table_inputs(form, batch, options.nodes)
    price = lambda straight_through: network.apply(
      {"params": params["payment"]["network"]}, inputs, batch["nodes"], straight_through=straight_through
    )
    multiplier = params["payment"]["multiplier"]
    return tables_loss(price, batch["nodes"], batch["x"], options.nodes, multiplier, options.penalty)

  def batches(previous):
    cache = None if workdir is None else os.path.join(workdir, f"counterfactual_{source}.npz")
    columns = payment_tables(config, system_of(previous[source]), cache, writes=process[0] == 0)
    return from_arrays(
      columns, options.batch_size, config.seed, process_index=process[0], process_count=process[1]
    )  # fmt: skip

  optimizer = payment_optimizer(options.learning_rate, options.steps, options.multiplier_step)
  return Stage(
    name=name, needs=(source,), init=init, loss=loss, batches=batches, optimizer=optimizer, trainable="^payment/",
    num_steps=options.steps,
  )  # fmt: skip


def example_inputs(form, num_nodes, length):
  """Returns inputs of a form's network for one ad and one own bid, zeros: of num_nodes fixed bids, or of lists of K =
  length.
  """
  if form == "price":
    return menu_inputs(*(jnp.zeros((1, size)) for size in (num_nodes, num_nodes, num_nodes, 1)))
  return RateInputs(jnp.zeros((1, 1, length)), jnp.zeros((1, 1, length)), jnp.zeros((1, 1), jnp.int32))


def table_inputs(form, batch, num_nodes):
  """Returns the inputs [B, G] of a form from a batch of tables, of which the first num_nodes own bids are fixed."""
  if form == "price":
    return menu_inputs(batch["nodes"][:, :num_nodes], batch["x"][:, :num_nodes], batch["weight"], batch["x"])
  return RateInputs(batch["bids"], batch["probability"], batch["slot"])


def payment_tables(config, system, cache, writes=True):
  """Returns columns of T tables, one per request and ad: nodes, x [T, G], weight [T, M] of the M fixed ones, and, if
  the paper's form is among the systems, its bids, probability [T, G, K] and slot [T, G]; money in median bids.

  Ads are chosen without a look at the own bid's effect beyond the list: those shown at the logged bids and random ones.
  A table is the same whenever it is computed; `cache` (a path or None) saves the minutes after an interruption. It is
  read if it is of this config and these parameters, and written where `writes`.
  """
  made_by = digest([np.frombuffer(config.to_json_best_effort().encode(), np.uint8), system.params])
  if cache and os.path.isfile(cache):
    with np.load(cache) as stored:
      if str(stored.get("made_by")) == made_by:
        return {key: stored[key] for key in stored.files if key != "made_by"}
  options = config.payment
  rows = _rows(config)
  columns = read_split(config.data, "train", REQUEST, rows)
  parts = []
  rng = np.random.default_rng(config.seed)
  chunk = config.evaluation.chunk
  progress = Progress("payment: own-bid curves of requests,", len(rows), unit="requests")
  for start in range(0, len(rows) - len(rows) % chunk, chunk):
    batch = {key: value[start : start + chunk] for key, value in columns.items()}
    parts.append(_batch_tables(options, system, batch, rng, config.value_sigma, "EGA-rate" in config.systems))
    if (start // chunk) % PROGRESS_EVERY == PROGRESS_EVERY - 1:
      progress.show(start + chunk)
  tables = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
  if cache and writes:
    os.makedirs(os.path.dirname(cache), exist_ok=True)
    with open(cache + ".part", "wb") as file:
      np.savez(file, made_by=made_by, **tables)
    os.replace(cache + ".part", cache)
  return tables


def _rows(config):
  """Returns the positions of the newest training requests of the main folds: the market when payments start."""
  folds = read_split(config.data, "train", ("fold",))["fold"]
  eligible = np.flatnonzero(np.isin(folds, main_folds(config)))
  recent = eligible[-5 * config.payment.requests :]
  size = min(config.payment.requests, len(recent))
  return np.sort(np.random.default_rng(config.seed).choice(recent, size, replace=False))


def _batch_tables(options, system, batch, rng, sigma, with_rate):
  bids = np.asarray(batch["bid"], np.float32)
  items = system.allocate(batch, bids[:, None]).items[:, 0]
  ads = _chosen_ads(batch, items, options.ads, rng)
  mu = value_location(batch, ads)
  fixed = value_nodes(mu, sigma, options.nodes)
  drawn = np.exp(mu[..., None] + sigma * rng.normal(size=(*ads.shape, options["values"])))
  nodes = np.concatenate([fixed, drawn], axis=-1).astype(np.float32)
  slate = system.sweep(batch, bids, ads, nodes)
  columns = {
    "nodes": nodes / float(system.params["market"]["bid_scale"]),
    "x": own_of(slate.click_probability, slate.items, ads),
    "weight": node_weights(fixed, mu, sigma),
  }
  if with_rate:
    paper = rate_inputs(system, batch, bids, ads, nodes, slate)
    columns |= {name: np.asarray(leaf) for name, leaf in vars(paper).items()}
  useful = (ads >= 0).reshape(-1) & (columns["x"].max(-1) > 0).reshape(-1)
  single = lambda leaf: leaf.astype(np.int32 if leaf.dtype.kind == "i" else np.float32)
  return {key: single(leaf.reshape(-1, *leaf.shape[2:])[useful]) for key, leaf in columns.items()}


def _chosen_ads(batch, items, count, rng):
  """Returns i32[B, count]: the shown ads, then random unshown ones; -1 where there are fewer."""
  eligible = batch["is_ad"] & (batch["candidates"] >= 0)
  shown = (items[:, :, None] == np.arange(eligible.shape[1])).any(1)
  draw = rng.random(eligible.shape) + np.where(shown, 0.0, 1.0)
  order = np.argsort(np.where(eligible, draw, 3.0), axis=1)[:, :count]
  return np.where(at_items(eligible, order), order, -1).astype(np.int32)
