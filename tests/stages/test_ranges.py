"""The ranges of the recipe's numbers: every one has one, and what is outside is refused by name."""

import copy

import pytest

from ega_jax.stages.defaults import base_config
from ega_jax.stages.ranges import check_ranges, range_of
from ega_jax.training.checkpoint import flat
from experiments.custom_loss import config as custom_loss
from experiments.ega_checkins import config as checkins
from experiments.ega_paper import config as paper
from experiments.quickstart import config as quickstart
from launch import experiment


def test_every_number_of_the_recipe_has_a_range_that_holds_its_default():
  numbers = {key: value for key, value in flat(base_config().to_dict()).items() if type(value) in (int, float)}
  assert [key for key in numbers if range_of(key) is None and not key.startswith("mesh.")] == []


@pytest.mark.parametrize("module", [custom_loss, checkins, paper, quickstart])
def test_the_experiments_are_inside(module):
  check_ranges(module.get_config())


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("payment.nodes=1", "config.payment.nodes is 1; allowed: 3 or more"),
    ("evaluation.nodes=2", "config.evaluation.nodes is 2; allowed: 3 or more"),
    ("lists.beta=-1", "config.lists.beta is -1.0; allowed: 0 to 1000000"),
    ("lists.alpha=1e999", "config.lists.alpha is inf; allowed: 0 to 20"),
    ("value_sigma=-1", "config.value_sigma is -1.0; allowed: more than 0 to 10"),
    ("value_sigma=0", "config.value_sigma is 0.0; allowed: more than 0"),
    ("reward.learning_rate=-1", "config.reward.learning_rate is -1.0; allowed: more than 0 to 1"),
    ("pretrain.batch_size=0", "config.pretrain.batch_size is 0; allowed: 1 or more"),
    ("pretrain.steps=0", "config.pretrain.steps is 0; allowed: 1 or more"),
    ("model.dropout=1", "config.model.dropout is 1.0; allowed: 0 to less than 1"),
    ("policy.virtual_share=1.1", "config.policy.virtual_share is 1.1; allowed: 0 to 1"),
    ("reward.model.members=0", "config.reward.model.members is 0; allowed: 1 or more"),
    ("tokenizer.levels=0", "config.tokenizer.levels is 0; allowed: 1 or more"),
    ("seed=-1", "config.seed is -1; allowed: 0 to 4294967295"),
    ("evaluation.chunk=0", "config.evaluation.chunk is 0; allowed: 1 or more"),
  ],
)
def test_numbers_outside_of_their_ranges_are_named(argument, message):
  config = copy.deepcopy(base_config())
  experiment.override(config, f"--config.{argument}")
  with pytest.raises(ValueError, match=message):
    check_ranges(config)


def test_an_experiments_own_numbers_are_its_own():
  config = base_config()
  config.penalty = -3.0
  check_ranges(config)
