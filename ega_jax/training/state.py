"""What a step carries on: parameters, optimizer state of the trainable ones, random key, and the first bad step."""

import re

import jax
import jax.numpy as jnp

from ega_jax.parallel.partition import path_name, shardings_by_suffix, unbox
from ega_jax.types import Array, record


@record
class TrainState:
  """The whole state of a stage. Two equal states and data positions continue equally, bit for bit."""

  step: Array  # i32[]   steps done
  params: Array  # tree    all parameters, frozen ones too
  opt_state: Array  # tree    of the trainable leaves only
  rng: Array  # u32[2]  key data; step n uses fold_in(rng, n)
  first_bad_step: Array  # i32[]   the first step (from 1) whose loss or gradient was not finite, -1 for none


def trainable_mask(params, pattern):
  """Returns a tree of bools: the inexact leaves whose path `pattern` is found in.

  Raises:
    ValueError: `pattern` is no regular expression or picks nothing.
  """
  try:
    compiled = re.compile(pattern)
  except re.error as error:
    raise ValueError(f"trainable = {pattern!r} is no regular expression: {error}") from error
  picks = lambda path, leaf: bool(jnp.issubdtype(leaf.dtype, jnp.inexact) and compiled.search(path_name(path)))
  mask = jax.tree_util.tree_map_with_path(picks, params)
  if not any(jax.tree.leaves(mask)):
    paths = [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    raise ValueError(f"trainable = {pattern!r} picks no floating-point leaf of: {', '.join(paths[:20])}")
  return mask


def split(params, mask):
  """Returns (trainable, frozen): `params` twice, with None in place of the other half."""
  trainable = jax.tree.map(lambda picked, leaf: leaf if picked else None, mask, params)
  frozen = jax.tree.map(lambda picked, leaf: None if picked else leaf, mask, params)
  return trainable, frozen


def merge(trainable, frozen):
  """Returns the tree whose halves `split` gave."""
  return jax.tree.map(lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda leaf: leaf is None)


def initial_state(stage, rng, previous):
  """Returns the TrainState before the first step. Traceable.

  Args: stage: Stage; rng: a key; previous: {stage name: final params} of the stages that it needs.
  """
  init_rng, loop_rng = jax.random.split(rng)
  return first_state(stage, loop_rng, stage.init(init_rng, previous))


def first_state(stage, rng, params):
  """Returns the TrainState that starts with `params`, boxed or not. Traceable.

  Every leaf is a fresh array: a step donates its state, and a leaf taken over from an earlier stage must survive that.
  """
  params = unbox(params)
  params = jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.result_type(leaf), copy=True), params)
  opt_state = ()
  if stage.num_steps:
    opt_state = stage.optimizer.init(split(params, trainable_mask(params, stage.trainable))[0])
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=opt_state,
    rng=jax.random.key_data(rng),
    first_bad_step=jnp.full((), -1, jnp.int32),
  )


def state_shardings(abstract, param_shardings, mesh):
  """Returns a sharding per leaf of an abstract TrainState: optimizer leaves lie where their parameter lies.

  param_shardings: of the tree `abstract.params`, leaf by leaf.
  """
  leaves = jax.tree.map(lambda leaf, sharding: (leaf.shape, sharding), abstract.params, param_shardings)
  return shardings_by_suffix(abstract, leaves, mesh)
