"""What pre-training hides from its examples, how they count, and where it starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_run
from ega_jax.data.pipeline import train_batches
from ega_jax.parallel.partition import unbox
from ega_jax.stages import pretrain
from ega_jax.stages.batches import REQUEST


@pytest.fixture(scope="module")
def batch():
  columns = (*REQUEST, *pretrain.COLUMNS)
  return jax.tree.map(jnp.asarray, next(iter(train_batches(tiny_run.data(), "train", 8, 0, columns=columns))))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_hidden_time_changes_no_loss(batch, share):
  config = tiny_run.config().copy_and_resolve_references()
  config.pretrain.drop_time, config.pretrain.full_gap = share, 0.0
  stage = pretrain.pretrain_stage(config, tiny_run.models())
  params = tiny_run.trained()[1]["pretrain"]
  loss = jax.jit(lambda batch: stage.loss(params, batch, jax.random.key(1))[0])
  later = batch | {"hour": (batch["hour"] + 11) % 168, "history_age": batch["history_age"] + 11.0}
  same = float(loss(batch)) == pytest.approx(float(loss(later)), rel=1e-5)
  assert same == (share == 1.0)


def test_visits_count_by_the_time_since_the_one_before(batch):
  config = tiny_run.config().copy_and_resolve_references()
  config.pretrain.drop_time, config.pretrain.full_gap = 0.0, 24.0
  stage = pretrain.pretrain_stage(config, tiny_run.models())
  params = tiny_run.trained()[1]["pretrain"]
  weight = jax.jit(lambda batch: stage.loss(params, batch, jax.random.key(1))[2]["visits"][1])
  known = batch["target_poi"][:, : config.pretrain.targets] >= 0
  far = batch | {"history_action": jnp.ones_like(batch["history_action"]), "history_age": batch["history_age"] * 0 + 30}
  assert float(weight(far)) == pytest.approx(float(known.sum()))
  for hours, share in ((6.0, 0.25), (0.0, 0.02)):
    near = far | {"history_age": far["history_age"] * 0 + hours}
    assert float(weight(near)) == pytest.approx(share * float(known.sum()))


def test_the_decoder_starts_as_its_prior():
  stage = pretrain.pretrain_stage(tiny_run.config(), tiny_run.models())
  params = unbox(jax.jit(stage.init)(jax.random.key(0), tiny_run.trained()[1]))
  assert not np.asarray(params["generator"]["poi_head"]).any()
  assert np.asarray(params["generator"]["item_prior"]["heads"]["kernel"]).any()


def test_it_ends_with_the_trusted_share(monkeypatch):
  params = tiny_run.trained()[1]["pretrain"]
  monkeypatch.setattr(pretrain.trust, "trusted", lambda config, models, params: ("trusted", 0.5))
  stage = pretrain.pretrain_stage(tiny_run.config(), tiny_run.models())
  assert stage.finish(params, {}) == "trusted"


def test_the_loss_is_the_sum_of_its_parts(batch):
  config = tiny_run.config().copy_and_resolve_references()
  config.pretrain.visit_weight, config.pretrain.click_weight = 0.7, 1.3
  stage = pretrain.pretrain_stage(config, tiny_run.models())
  total, rows, parts = jax.jit(stage.loss)(tiny_run.trained()[1]["pretrain"], batch, jax.random.key(1))
  mean = {name: float(part[0]) / max(float(part[1]), 1.0) for name, part in parts.items()}
  assert float(total) / float(rows) == pytest.approx(
    0.7 * mean["visits"] + 1.3 * mean["clicks"] + mean["creatives"], rel=1e-5
  )
  assert rows == 8 and all(mean.values())
