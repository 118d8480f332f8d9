"""EGA at the paper's reported sizes, with 10^7 POIs and 2 * 10^6 users, laid out for TPU pods: see README.md.

python -m launch.train --experiment=experiments/ega_paper/config.py --dry_run
python -m launch.compile --experiment=experiments/ega_paper/config.py --topology=v5e:4x4
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ega_jax.models.encoder import NUM_CONTEXT
from ega_jax.nn.embedding import ROW_MULTIPLE
from ega_jax.stages.defaults import base_config
from ega_jax.stages.pretrain import pretrain_stage
from ega_jax.stages.recipe import Sizes, build_models
from ega_jax.training.stage import Stage
from ega_jax.types import Catalog, SemanticIds


def get_config():
  """Returns the paper's hyperparameters where it reports them, and ours (README) where it does not."""
  config = base_config()
  # Reported: L = 3 blocks, C = 3 codes of W = 1024, K = 10, B = 256 tokens of history, Adam at .0024, batch 128.
  config.list_length = 10
  config.tokenizer.update({"levels": 3, "codebook_size": 1024, "creative_codebook_size": 1024})
  config.model = {"preset": "paper", "history_items": 32, "item_prior": False, "dropout": 0.1, "width": 512,
                  "num_heads": 8, "mlp_width": 2048, "dtype": "bfloat16", "remat": False}  # fmt: skip
  config.pretrain.update(
    {"batch_size": 128, "learning_rate": 2.4e-3, "weight_decay": 0.0, "targets": 10, "normaliser": "vocabulary"}
  )
  config.lists.update({"token_bid": "max", "alpha": 1.2, "beta": 2.0})
  config.sizes = {"pois": 10_000_000, "users": 2_000_000, "creatives": 30_000_000, "creatives_per_poi": 3,
                  "content": 32, "style": 32, "candidates": 100, "successors": 16}  # fmt: skip
  config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
  return config


def stages(config, workdir=None):
  """Returns the catalogue (zeros, sharded) and the pre-training stage; sizes are the config's, no data is read."""
  del workdir
  sizes = config.sizes
  models = build_models(config, Sizes(sizes.pois, sizes.users, sizes.creatives))
  constants = Stage("catalogue", lambda rng, previous: catalogue(config))
  return [constants, pretrain_stage(config, models, source=constants.name)]


def rows(count):
  """Returns the rows of a table of `count` ids: a multiple that every usual number of devices divides."""
  return -(-count // ROW_MULTIPLE) * ROW_MULTIPLE


def catalogue(config):
  """Returns {"catalog": Catalog, "ids": SemanticIds} of zeros whose rows are split over all devices."""
  sizes, levels = config.sizes, config.tokenizer.levels
  p, q = rows(sizes.pois), rows(sizes.creatives)

  def table(shape, dtype=jnp.float32):
    names = ("table",) + (None,) * (len(shape) - 1)
    return nn.LogicallyPartitioned(jnp.zeros(shape, dtype), names)

  catalog = Catalog(
    poi_embedding=table((p, sizes.content)), poi_place=table((p, 2)), poi_category=table((p,), jnp.int32),
    poi_parent=table((p,), jnp.int32), poi_popularity=table((p,)),
    poi_creatives=table((p, sizes.creatives_per_poi), jnp.int32),
    creative_embedding=table((q, sizes.style)), creative_poi=table((q,), jnp.int32),
  )  # fmt: skip
  return {"catalog": catalog, "ids": SemanticIds(table((p, levels + 1), jnp.int32), table((q, levels), jnp.int32))}


def history_tokens(config):
  """Returns the length of the encoder's sequence: context tokens, and SEP, POI codes, creative codes of each event."""
  return NUM_CONTEXT + config.model.history_items * (1 + (config.tokenizer.levels + 1) + config.tokenizer.levels)


def batch_shapes(config, stage_name):
  """Returns the columns of a global batch of the stage as ShapeDtypeStructs.

  Raises: ValueError for a stage that does not train.
  """
  if stage_name != "pretrain":
    raise ValueError(f"stage {stage_name!r} reads no batches; allowed: pretrain")
  size, sizes = config.pretrain.batch_size, config.sizes
  shaped = lambda dtype, *shape: jax.ShapeDtypeStruct((size, *shape), dtype)
  integers, floats, bytes_ = jnp.int32, jnp.float32, jnp.int8
  history, listed = config.model.history_items, config.list_length
  return {
    "user": shaped(integers),
    "place": shaped(floats, 2),
    "hour": shaped(integers),
    **{f"history_{name}": shaped(integers, history) for name in ("poi", "creative", "action", "hour")},
    "history_age": shaped(floats, history),
    "successor_poi": shaped(integers, sizes.successors),
    "successor_count": shaped(floats, sizes.successors),
    "candidates": shaped(integers, sizes.candidates),
    "is_ad": shaped(jnp.bool_, sizes.candidates),
    "bid": shaped(floats, sizes.candidates),
    "value_mu": shaped(floats, sizes.candidates),
    "shown_item": shaped(integers, listed),
    "shown_creative": shaped(integers, listed),
    **{name: shaped(bytes_, listed) for name in ("click", "creative_click", "conversion")},
    "target_poi": shaped(integers, config.pretrain.targets),
  }
