"""The payment objective over counterfactual tables: revenue and ex-post regret of own values drawn for each table (EGA
Eq. 33-35).

A table is the own-bid curve of one ad, the allocation re-run at every bid and the others fixed. Its first bids are
fixed ones, which a network may see; the others are drawn from the ad's values and serve as true values. All of them
serve as misreports.
"""

import jax
import jax.numpy as jnp
import optax

from ega_jax.losses.lagrangian import payment_loss, table_regret


def sampled_regret(truthful, misreport, x, nodes, own):
  """Returns ex-post regret f32[B, S] of values nodes[own i32[B, S]], over every node as a misreport (EGA Eq. 6).

  Args: truthful, misreport: prices f32[B, G] with the gradient of a truthful report and of a misreport (`cap_price`);
    x, nodes f32[B, G], click probabilities and own bids.
  """
  spread = lambda a: jnp.broadcast_to(a[:, None], (*own.shape, a.shape[-1]))
  own_prices = jnp.take_along_axis(truthful, own, axis=1)
  return table_regret(spread(misreport), spread(x), spread(nodes), own, own_prices=own_prices)


def tables_loss(price, nodes, x, num_fixed, multiplier, penalty):
  """Returns (sum, weight, metrics) of `payment_loss` over tables nodes, x f32[B, G], of which the first `num_fixed`
  bids are fixed and every other is a true value.

  Args: price: function of `straight_through` -> prices f32[B, G] at every node; multiplier f32[]: lambda; penalty: rho
    of Eq. 33.
  """
  truthful, misreport = price(True), price(False)
  own = jnp.broadcast_to(jnp.arange(num_fixed, nodes.shape[1]), (len(x), nodes.shape[1] - num_fixed))
  regret = sampled_regret(truthful, misreport, x, nodes, own)
  at = lambda a: jnp.take_along_axis(a, own, axis=1)
  return payment_loss(at(truthful), at(x), at(nodes), at(nodes), regret, multiplier, penalty)


def payment_optimizer(learning_rate, steps, multiplier_step):
  """Returns the optax transformation of a tree with one leaf "multiplier": Adam with a cosine, and ascent on that leaf.

  The loss is linear in the multiplier: ascent on it with a constant step is Eq. 35.

  Args: learning_rate: of Adam at first; steps: in which it falls to 0; multiplier_step: rho of Eq. 35.
  """
  schedule = optax.cosine_decay_schedule(learning_rate, max(steps, 1))
  return optax.multi_transform(
    {"network": optax.adam(schedule), "multiplier": optax.scale(multiplier_step)}, _labels
  )


def _labels(params):
  name = lambda path: "multiplier" if "multiplier" in jax.tree_util.keystr(path) else "network"
  return jax.tree_util.tree_map_with_path(lambda path, _: name(path), params)
