"""One step of gradient descent on a stage's loss."""

import jax
import jax.numpy as jnp
import optax

from ega_jax.parallel.partition import batch_sharding
from ega_jax.training.state import TrainState, merge, split, trainable_mask


def objective(stage, params, batch, rng):
  """Returns (loss, metrics): the loss's sum over the global batch divided, once, by its weight (0 where that is 0).

  metrics: "loss", "weight", and the stage's own, each divided by its own weight.

  Args: stage: Stage; params: all of its parameters; batch: dict of arrays [rows, ...]; rng: a key.
  """
  total, weight, metrics = stage.loss(params, batch, rng)
  weight = jax.lax.stop_gradient(jnp.asarray(weight, jnp.float32))
  # An all-masked batch is a loss of 0 with gradient 0, never NaN.
  loss = jnp.where(weight == 0, 0.0, total / jnp.where(weight == 0, 1.0, weight))
  means = {name: part / jnp.asarray(whole, jnp.float32) for name, (part, whole) in metrics.items()}
  return loss, {"loss": loss, "weight": weight, **means}


def train_step(stage, state, batch):
  """Returns (next state, metrics: dict of f32[]). Metrics are those of this step, taken before its update."""
  rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
  trainable, frozen = split(state.params, trainable_mask(state.params, stage.trainable))

  def loss_fn(trainable):
    return objective(stage, merge(trainable, frozen), batch, rng)

  (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(trainable)
  updates, opt_state = stage.optimizer.update(grads, state.opt_state, trainable)
  params = optax.apply_updates(trainable, updates)
  norms = {"grad_norm": grads, "param_norm": params, "update_norm": updates}
  norms = {name: optax.tree.norm(tree) for name, tree in norms.items()}
  finite = jnp.isfinite(loss) & jnp.isfinite(norms["grad_norm"])
  bad = jnp.where((state.first_bad_step < 0) & ~finite, state.step + 1, state.first_bad_step)
  following = TrainState(state.step + 1, merge(params, frozen), opt_state, state.rng, bad)
  return following, metrics | norms


def compile_step(stage, mesh, shardings):
  """Returns the jitted step (state, batch) -> (state, metrics). The state is donated and stays where it lies.

  Args: shardings: of the state, from `state_shardings`; batches are split over `mesh` as `batch_sharding` says.
  """
  replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

  def step(state, batch):
    return train_step(stage, state, batch)

  inputs, outputs = (shardings, batch_sharding(mesh)), (shardings, replicated)
  return jax.jit(step, in_shardings=inputs, out_shardings=outputs, donate_argnums=0)
