"""Training of a payment on a market's frozen lists (systems/market_payment.py), and how far it is from Myerson's."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ega_jax.auction import regret as regret_lib
from ega_jax.losses.payment_tables import payment_optimizer, tables_loss
from ega_jax.systems import market_payment as learned_lib

STREAM = 2  # other draws than an audit's of the same seed (seed, [seed, 1]); not 0: [seed, 0] draws as seed alone does


def learn(allocation, distributions, theta_of=None, options=None):
  """Returns (MarketPayment, metrics of the last step) trained on profiles of truthful values.

  Args: allocation: a mechanism whose click probabilities are frozen. distributions, theta_of: of MarketPayment.
    options: Options.
  """
  options = options or learned_lib.Options()
  rng = np.random.default_rng([options.seed, STREAM])
  draw = lambda count: np.stack([one.sample(rng, count) for one in distributions], axis=-1)
  bids = draw(options.profiles)
  scale = float(np.median(bids))
  empty = learned_lib.MarketPayment(allocation, tuple(distributions), theta_of, options, None, scale)
  ads = np.broadcast_to(np.arange(bids.shape[1]), bids.shape)
  fixed, _ = learned_lib.fixed_curves(distributions, options.nodes)
  drawn = np.moveaxis(draw(options.profiles * options.values).reshape(options.profiles, options.values, -1), 1, 2)
  nodes = np.concatenate([np.broadcast_to(fixed, (len(bids), *fixed.shape)), drawn], axis=-1)
  x = regret_lib.counterfactual_table(allocation, bids, ads, nodes).x
  blocks = np.split(np.arange(len(bids)), np.arange(learned_lib.BLOCK, len(bids), learned_lib.BLOCK))
  inputs = [learned_lib.table_inputs(empty, bids[rows], ads[rows], nodes[rows], x[rows]) for rows in blocks]
  inputs = jax.tree.map(lambda *parts: jnp.concatenate(parts).reshape(-1, *parts[0].shape[2:]), *inputs)
  rows = {"nodes": nodes.reshape(-1, nodes.shape[-1]) / scale, "x": x.reshape(-1, x.shape[-1])}
  data = {"inputs": inputs} | {name: jnp.asarray(value, jnp.float32) for name, value in rows.items()}
  params, metrics = _train(options, data)
  return dataclasses.replace(empty, params=params["network"]), {name: float(value) for name, value in metrics.items()}


@functools.partial(jax.jit, static_argnames=("options",))
def _train(options, data):
  """Returns (params, metrics of the last step) of options.steps steps on random tables."""
  network = learned_lib.network_of(options.form)
  optimizer = payment_optimizer(options.learning_rate, options.steps, options.multiplier_step)
  first = jax.tree.map(lambda leaf: leaf[:1], data)
  key = jax.random.key(options.seed)
  fresh = network.init(key, first["inputs"], first["nodes"])["params"]
  params = {"network": fresh, "multiplier": jnp.float32(options.multiplier)}

  def loss(params, batch):
    price = lambda straight_through: network.apply(
      {"params": params["network"]}, batch["inputs"], batch["nodes"], straight_through=straight_through
    )
    total, weight, metrics = tables_loss(
      price, batch["nodes"], batch["x"], options.nodes, params["multiplier"], options.penalty
    )
    return total / weight, metrics

  def step(carry, key):
    params, state = carry
    rows = jax.random.randint(key, (options.batch_size,), 0, len(data["x"]))
    grads, metrics = jax.grad(loss, has_aux=True)(params, jax.tree.map(lambda leaf: leaf[rows], data))
    updates, state = optimizer.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), metrics

  keys = jax.random.split(jax.random.fold_in(key, 1), options.steps)
  (params, _), metrics = jax.lax.scan(step, (params, optimizer.init(params)), keys)
  return params, {name: total[-1] / jnp.maximum(weight[-1], 1e-30) for name, (total, weight) in metrics.items()}


def distance(mechanism, truthful, profiles):
  """Returns {"payment_correlation", "payment_mae"} over shown ads of expected payments, learned against `truthful`'s
  (the Myerson payment of the same allocation), on profiles f[B, N].

  mechanism, truthful: functions of bids [B, N] -> types.Outcome.
  """
  payment = lambda outcome: (np.asarray(outcome.price) * outcome.click_probability)
  found, exact = mechanism(profiles), truthful(profiles)
  shown = np.asarray(exact.click_probability) > 0
  found, exact = payment(found)[shown], payment(exact)[shown]
  return {
    "payment_correlation": float(np.corrcoef(found, exact)[0, 1]),
    "payment_mae": float(np.abs(found - exact).mean()),
  }
