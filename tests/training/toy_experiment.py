"""A toy experiment for the tests: regression, codes fitted without steps, a head on frozen parts."""

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from ega_jax.training.stage import Stage
from ega_jax.types import SemanticIds

FEATURES, ROWS = 8, 512


class Regressor(nn.Module):
  """Returns f32[B] from f32[B, FEATURES]: a two-layer network with logical axes."""

  width: int

  @nn.compact
  def __call__(self, x):
    axes = nn.with_logical_partitioning
    normal = nn.initializers.lecun_normal()
    hidden = self.param("hidden", axes(normal, ("embed", "mlp")), (FEATURES, self.width))
    bias = self.param("bias", axes(nn.initializers.zeros, ("mlp",)), (self.width,))
    out = self.param("out", axes(normal, ("mlp", None)), (self.width, 1))
    x = nn.with_logical_constraint(jnp.tanh(x @ hidden + bias), ("batch", "mlp"))
    return (x @ out)[:, 0]


def get_config():
  """Returns the toy's sizes."""
  return ml_collections.ConfigDict(
    {
      "seed": 0,
      "batch_size": 32,
      "num_steps": 20,
      "bad_step": 0,  # the target is NaN from this step on; 0 for never
      "model": {"width": 16},
      "trainable": "regressor",
      "mesh": {"data": -1},
    }
  )


def rows(seed=0):
  """Returns f32[ROWS, FEATURES] inputs and f32[ROWS] targets."""
  x = np.random.default_rng(seed).normal(size=(ROWS, FEATURES)).astype(np.float32)
  return x, np.sin(x.sum(1)).astype(np.float32)


def dataset(config):
  """Returns an endless grain dataset of this process's rows of each global batch."""
  x, y = rows()
  index, count = jax.process_index(), jax.process_count()

  def batch(elements):
    # A process has a block of the batch, so that the global batch is in one order whatever the number of processes.
    mine = np.split(np.asarray(elements), count)[index]
    return {"x": x[mine], "y": y[mine]}

  source = grain.MapDataset.source(range(ROWS)).shuffle(seed=1).repeat()
  return source.batch(config.batch_size, batch_fn=batch).to_iter_dataset()


def stages(config, workdir):
  """Returns the stages "regress", "codes" (no steps) and "head"."""
  module = Regressor(config.model.width)

  def init(rng, previous):
    params = module.init(rng, jnp.zeros((1, FEATURES)))["params"]
    return {"regressor": params, "ids": SemanticIds(jnp.zeros((4, 2), jnp.int32), jnp.zeros((4, 1), jnp.int32))}

  def loss(params, batch, rng):
    noise = 0.01 * jax.random.normal(rng, batch["y"].shape)
    error = jnp.square(module.apply({"params": params["regressor"]}, batch["x"]) - batch["y"] + noise)
    if "head" in params:
      error = jnp.square(batch["y"] - jnp.sum(batch["x"] * params["head"], -1))
    weight = jnp.float32(error.shape[0])
    return jnp.sum(error), weight, {"error": (jnp.sum(error), weight)}

  def batches(previous):
    data = dataset(config)
    if not config.bad_step:
      return data
    first_bad = config.bad_step - 1
    return data.map(lambda batch: batch | {"y": batch["y"] * np.nan}) if first_bad == 0 else _Poisoned(data, first_bad)

  def fit_codes(params, previous):
    codes = np.argsort(np.asarray(params["regressor"]["bias"]))[:8].reshape(4, 2).astype(np.int32)
    return params | {"ids": SemanticIds(codes, codes[:, :1])}

  def head(rng, previous):
    return previous["codes"] | {"head": nn.LogicallyPartitioned(jnp.zeros((FEATURES,)), ("embed",))}

  evaluate = lambda params: {"bias_norm": float(np.linalg.norm(params["regressor"]["bias"]))}
  adam = optax.adamw(1e-2)
  steps = config.num_steps
  return [
    Stage("regress", init, loss, batches, adam, config.trainable, steps, evaluate=evaluate, eval_every=8),
    Stage("codes", lambda rng, previous: previous["regress"], finish=fit_codes),
    Stage("head", head, loss, batches, adam, "^head", steps),
  ]


def batch_shapes(config, stage):
  """Returns the shapes of a global batch."""
  size = config.batch_size
  return {"x": jax.ShapeDtypeStruct((size, FEATURES), jnp.float32), "y": jax.ShapeDtypeStruct((size,), jnp.float32)}


class _Poisoned:
  """An iterable whose targets are NaN from one batch on. Not grain's: the loop takes any iterator with a state."""

  def __init__(self, data, first_bad):
    self._iterator, self._first_bad, self._count = iter(data), first_bad, 0

  def __iter__(self):
    return self

  def __next__(self):
    batch = next(self._iterator)
    self._count += 1
    return batch if self._count <= self._first_bad else batch | {"y": batch["y"] * np.nan}

  def get_state(self):
    return {"count": self._count, "inner": self._iterator.get_state()}

  def set_state(self, state):
    self._count = state["count"]
    self._iterator.set_state(state["inner"])
