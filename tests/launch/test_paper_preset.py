"""experiments/ega_paper: the sizes its README states, a sharding for every leaf, and shapes that its step accepts."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

from ega_jax.nn.embedding import ROW_MULTIPLE
from ega_jax.parallel.mesh import AXES
from ega_jax.parallel.partition import path_name, tree_shardings
from ega_jax.training.state import state_shardings
from launch import experiment

FOLDER = Path(__file__).parents[2] / "experiments/ega_paper"
PAPER = FOLDER / "config.py"
SMALL = (
  "--config.sizes.pois=700", "--config.sizes.users=100", "--config.sizes.creatives=1100", "--config.pretrain.targets=2",
  "--config.model.history_items=3", "--config.model.width=16", "--config.model.num_heads=2", "--config.list_length=3",
  "--config.model.mlp_width=32", "--config.pretrain.batch_size=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def paper():
  module, config = experiment.load(PAPER)
  return module, config, list(experiment.abstract_stages(module.stages(config, None)))


def _flat(tree):
  return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _dense_numbers(width=512, mlp=2048, layers=3, codes=3, vocabulary=1024, content=32, events=32, listed=10):
  """Returns the parameters outside the id tables, from the sizes alone."""
  linear = lambda i, o: i * o + o
  attention, norm, feed = 4 * width * width, width, linear(width, mlp) + linear(mlp, width)
  encoder = layers * (attention + feed + 2 * norm) + linear(4 * width, width) + 2 * norm
  positions = listed * (codes + 1) + 1
  decoder = layers * (2 * attention + feed + 3 * norm) + norm + (2 + positions) * width
  tables = ((codes + 1) + codes) * vocabulary * width + codes * width  # code embeddings, and the absent creative's
  heads = (2 * (codes + 1) + codes) * vocabulary * width + 1  # POI heads per prompt; the weight of creatives' belief
  creative = 2 * width * width + attention + feed + 4 * norm + width
  slots, rows = 1 + (codes + 1) + codes, 3 + 4 + 16 + 169 + 169 + events
  history = (slots + rows) * width + linear(content, width) + linear(1, width) + linear(2, width)
  return encoder + decoder + tables + heads + creative + history


def test_parameters_are_those_of_the_readme(paper):
  _, config, abstract = paper
  leaves = _flat(abstract[1][1].params["generator"])
  rows = lambda count: math.ceil(count / ROW_MULTIPLE) * ROW_MULTIPLE
  tables = {path: leaf.size for path, leaf in leaves.items() if path in ("history/poi_id/table", "history/user/table")}
  assert sum(tables.values()) == 512 * (rows(10_000_000) + rows(2_000_000))
  dense = sum(leaf.size for leaf in leaves.values()) - sum(tables.values())
  assert dense == _dense_numbers()
  readme = (FOLDER / "README.md").read_text()
  for number in (dense, sum(tables.values()), dense + sum(tables.values())):
    assert f"{number:,}" in readme


def test_reported_hyperparameters(paper):
  module, config, _ = paper
  tokens = config.tokenizer
  assert (tokens.levels, tokens.codebook_size, tokens.creative_codebook_size, config.list_length) == (3, 1024, 1024, 10)
  assert (config.pretrain.learning_rate, config.pretrain.batch_size, config.pretrain.weight_decay) == (0.0024, 128, 0.0)
  assert module.history_tokens(config) == 3 + 256


@pytest.mark.parametrize("sizes", [(1, 1, 8, 1), (1, 2, 2, 2), (2, 4, 16, 4)])
def test_every_leaf_has_a_sharding_and_nothing_large_is_whole(paper, sizes):
  mesh = AbstractMesh(sizes, AXES)
  for _, state, names in paper[2]:
    params = tree_shardings(state.params, names, mesh)
    assert set(names) == set(_flat(state.params))
    shardings = state_shardings(state, params, mesh)
    for (path, leaf), (_, sharding) in zip(_flat(state).items(), _flat(shardings).items(), strict=True):
      part = math.prod(sharding.shard_shape(leaf.shape)) if leaf.ndim else 1
      if leaf.size > 2**24:  # tables, catalogue, codes, and Adam's moments of them
        assert part * mesh.size == leaf.size, path


def test_batch_shapes_fit_the_loss():
  module, config = experiment.load(PAPER, SMALL)
  stage, state, _ = list(experiment.abstract_stages(module.stages(config, None)))[1]
  batch = module.batch_shapes(config, stage.name)
  rng = jax.eval_shape(lambda: jax.random.key(0))
  loss, weight, metrics = jax.eval_shape(stage.loss, state.params, batch, rng)
  assert loss.shape == weight.shape == () and set(metrics) == {"visits", "clicks", "creatives"}
  # Compute is bfloat16; parameters, moments and the loss are not.
  leaves = [*jax.tree.leaves(state), loss]
  assert {leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)} == {jnp.dtype(jnp.float32)}
  with pytest.raises(ValueError, match="stage 'catalogue' reads no batches; allowed: pretrain"):
    module.batch_shapes(config, "catalogue")


def test_dry_run(tmp_path):
  output = tmp_path / "dry.json"
  command = [sys.executable, "-m", "launch.train", f"--experiment={PAPER}", "--dry_run", f"--output={output}"]
  subprocess.run(command, check=True, capture_output=True, timeout=60)
  report = json.loads(output.read_text())
  assert [stage["name"] for stage in report["stages"]] == ["catalogue", "pretrain"]
  assert report["stages"][1]["trained"] > 6e9
