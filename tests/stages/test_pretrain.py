"""What pre-training hides from a share of its examples."""

import jax
import jax.numpy as jnp
import pytest

import tiny_run
from ega_jax.data.pipeline import train_batches
from ega_jax.stages import pretrain
from ega_jax.stages.batches import REQUEST


@pytest.fixture(scope="module")
def batch():
  columns = (*REQUEST, *pretrain.COLUMNS)
  return jax.tree.map(jnp.asarray, next(iter(train_batches(tiny_run.data(), "train", 8, 0, columns=columns))))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_hidden_time_changes_no_loss(batch, share):
  config = tiny_run.config().copy_and_resolve_references()
  config.pretrain.drop_time = share
  stage = pretrain.pretrain_stage(config, tiny_run.models())
  params = tiny_run.trained()[1]["pretrain"]
  loss = jax.jit(lambda batch: stage.loss(params, batch, jax.random.key(1))[0])
  later = batch | {"hour": (batch["hour"] + 11) % 168, "history_age": batch["history_age"] + 11.0}
  same = float(loss(batch)) == pytest.approx(float(loss(later)), rel=1e-5)
  assert same == (share == 1.0)
