"""Stage 1: POI and creative embeddings -> semantic ids (BUILD_NOTES.md, "Tokens")."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ega_jax.data.pipeline import from_arrays, read_catalog
from ega_jax.tokenization import residual, rq_vae
from ega_jax.tokenization.metrics import tokenization_metrics
from ega_jax.tokenization.semantic_ids import add_suffix
from ega_jax.training.stage import Stage
from ega_jax.types import SemanticIds


def poi_inputs(catalog):
  """Returns f32[P, D + 2]: what POI codes describe, content and place, each of unit variance in all."""
  unit = lambda x: (x - x.mean(0)) / np.sqrt(np.mean(np.square(x - x.mean(0))) + 1e-12)
  content, place = unit(np.asarray(catalog.poi_embedding)), unit(np.asarray(catalog.poi_place))
  # A place has two columns and the content many: the weight lets both move the first codes.
  weight = np.sqrt(content.shape[1] / 4)
  return np.concatenate([content, weight * place], axis=1).astype(np.float32)


def _modules(config, inputs):
  sizes = {"poi": config.codebook_size, "creative": config.creative_codebook_size}
  return {
    name: rq_vae.RQVAE(rq_vae.RQVAEConfig(inputs[name].shape[1], levels=config.levels, codebook_size=size))
    for name, size in sizes.items()
  }


def tokenizer_stage(config, process=(0, 1)) -> Stage:
  """Returns the stage that ends with leaves "catalog" and "ids" (types.SemanticIds), which later stages inherit.

  method "rq_vae" trains one RQ-VAE for POIs and one for creatives together; "rq_kmeans" trains nothing.

  Args: config: the experiment's config; process: (index, count) of this process.
  Raises: ValueError: an unknown method, or more codes than there are POIs or creatives.
  """
  tokens = config.tokenizer
  catalog = read_catalog(config.data)
  inputs = {"poi": poi_inputs(catalog), "creative": np.asarray(catalog.creative_embedding, np.float32)}
  modules = _modules(tokens, inputs)
  losses = {name: rq_vae.rq_vae_loss_fn(module, name, column=name) for name, module in modules.items()}
  trains = tokens.method == "rq_vae"
  if tokens.method not in ("rq_vae", "rq_kmeans"):
    raise ValueError(f"config.tokenizer.method is {tokens.method!r}; allowed: 'rq_vae', 'rq_kmeans'")
  for key, name in (("codebook_size", "poi"), ("creative_codebook_size", "creative")):
    if not 1 <= tokens[key] <= len(inputs[name]):
      raise ValueError(f"config.tokenizer.{key} is {tokens[key]}; allowed: 1 to {len(inputs[name])}, one a {name}")

  def shapes(rng, previous):
    del previous
    params = {"catalog": jax.tree.map(jnp.asarray, catalog), "ids": unassigned_ids(catalog, tokens.levels)}
    fresh = {name: module.init(rng, inputs[name][:2])["params"] for name, module in modules.items() if trains}
    return params | fresh

  def init(rng, previous):
    del rng
    # The k-means start runs on the host, of data that are constants: now, also while init is being traced.
    with jax.ensure_compile_time_eval():
      params = shapes(jax.random.key(config.seed), previous)
      for name, module in modules.items() if trains else ():
        params[name] = rq_vae.init_codebooks_by_kmeans(module, params[name], inputs[name], config.seed)
    return params

  def loss(params, batch, rng):
    parts = {name: part(params, batch, rng) for name, part in losses.items()}
    # Two independent models in one step: each is divided by its own weight, and the sum is per row of the batch.
    total = sum(value / jnp.maximum(weight, 1) for value, weight, _ in parts.values())
    rows = parts["poi"][1]
    metrics = {f"{name}/{key}": value for name, part in parts.items() for key, value in part[2].items()}
    return total * rows, rows, metrics

  def batches(previous):
    del previous
    rows = np.arange(max(len(x) for x in inputs.values()))
    columns = {name: x[rows % len(x)] for name, x in inputs.items()}
    return from_arrays(columns, tokens.batch_size, config.seed, process_index=process[0], process_count=process[1])

  def finish(params, previous):
    del previous
    codes = {name: _codes(tokens, modules[name], params, name, inputs[name], config.seed) for name in modules}
    ids = SemanticIds(poi=add_suffix(codes["poi"], tokens.codebook_size), creative=codes["creative"])
    return {**params, "ids": ids}

  return Stage(
    name="tokenizer",
    needs=(),
    init=init,
    loss=loss,
    batches=batches,
    optimizer=optax.adamw(tokens.learning_rate, weight_decay=1e-4),
    trainable="^(poi|creative)/(encoder|decoder|codebooks)",
    num_steps=tokens.steps if trains else 0,
    finish=finish,
    evaluate=lambda params: describe(params["ids"], inputs, tokens),
    shapes=shapes,
  )


def unassigned_ids(catalog, levels) -> SemanticIds:
  """Returns ids of the right shape, all 0: what stands there until the stage has finished."""
  shape = lambda ids, codes: jnp.zeros((len(ids), codes), jnp.int32)
  return SemanticIds(poi=shape(catalog.poi_place, levels + 1), creative=shape(catalog.creative_poi, levels))


def _codes(tokens, module, params, name, inputs, seed):
  if tokens.method == "rq_kmeans":
    size = tokens.codebook_size if name == "poi" else tokens.creative_codebook_size
    return residual.encode(inputs, residual.fit_residual_kmeans(inputs, tokens.levels, size, seed))
  # Codebooks are fitted once more to the trained latents: codewords that training left without items come back.
  own = rq_vae.init_codebooks_by_kmeans(module, params[name], inputs, seed)
  return rq_vae.encode(module, own, inputs)


def describe(ids, inputs, tokens):
  """Returns {"poi/collision_rate": float, ..}: collisions, usage and PAS of POI and creative ids, without suffixes.

  Args: ids: SemanticIds; inputs: {"poi", "creative"}: the embeddings f[N, D] that they stand for.
  """
  codes = {"poi": np.asarray(ids.poi)[:, :-1], "creative": np.asarray(ids.creative)}
  sizes = {"poi": tokens.codebook_size, "creative": tokens.creative_codebook_size}
  found = {}
  for name, paths in codes.items():
    metrics = tokenization_metrics(inputs[name], paths, sizes[name])
    for key in ("collision_rate", "largest_bucket", "path_similarity"):
      found[f"{name}/{key}"] = float(metrics[key])
    found |= {f"{name}/code_usage_{level}": usage for level, usage in enumerate(metrics["code_usage"])}
  return found
