"""Turns item embeddings into semantic ids.

  python -m launch.tokenize --embeddings=X.npy --method=rq_kmeans --levels=3 --codebook_size=256 --output=DIR

Writes to DIR: semantic_ids.npy i32[N, levels (+ 1)], codebooks.npz (codebooks f32[levels, K, D]; for rq_vae the model's
parameters under their paths too), inverted_index.npz (paths, offsets, items) and metrics.json.
Exit codes: 0 done, 1 the run failed, 2 bad input. With rq_vae a killed run continues with the same command.
"""

import json
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from absl import flags

from launch.binary import FILE_ERRORS, check_output

METHODS = ("rq_kmeans", "rq_vae")

FLAGS = flags.FlagValues()  # its own: several binaries can be imported by one process
flags.DEFINE_string("embeddings", None, "Matrix [items, dimensions], .npy.", flag_values=FLAGS)
flags.DEFINE_string("method", "rq_kmeans", f"One of {', '.join(METHODS)}.", flag_values=FLAGS)
flags.DEFINE_integer("levels", 3, "Codes per item, before the suffix.", flag_values=FLAGS)
flags.DEFINE_integer("codebook_size", 256, "Codes per level.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "Folder to write to.", flag_values=FLAGS)
flags.DEFINE_bool("suffix", True, "Append a code that makes every path unique.", flag_values=FLAGS)
flags.DEFINE_integer("suffix_vocabulary", 0, "Most items on one path; 0 allows any number.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Same seed, same codes.", flag_values=FLAGS)
flags.DEFINE_integer("num_steps", 2000, "Gradient steps of rq_vae.", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 512, "Rows per step of rq_vae.", flag_values=FLAGS)
flags.DEFINE_integer("latent", 64, "Latent width of rq_vae.", flag_values=FLAGS)
flags.DEFINE_float("learning_rate", 0.005, "Peak learning rate of rq_vae.", flag_values=FLAGS)


def read_embeddings(path):
  """Returns f32[N, D] from a .npy file. Raises ValueError that names the file and what is wrong with it."""
  from ega_jax.tokenization.residual import check_embeddings

  try:
    array = np.load(path, allow_pickle=False)
  except FileNotFoundError:
    raise ValueError(f"--embeddings: {path} does not exist") from None
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(f"--embeddings: {path} is truncated or not a .npy matrix ({error})") from error
  if not isinstance(array, np.ndarray):
    raise ValueError(f"--embeddings: {path} is an archive, expected one .npy matrix")
  return check_embeddings(array, f"--embeddings: {path}")


def check_flags(options):
  """Raises ValueError naming the first flag whose value is not allowed."""
  for name in ("embeddings", "output"):
    if not options[name]:
      raise ValueError(f"--{name}: required")
  if options["method"] not in METHODS:
    raise ValueError(f"--method: {options['method']!r} is not allowed, expected one of {', '.join(METHODS)}")
  for name in ("levels", "codebook_size", "batch_size", "latent"):
    if options[name] < 1:
      raise ValueError(f"--{name}: {options[name]} is not allowed, expected at least 1")
  if options["num_steps"] < 4:
    raise ValueError(f"--num_steps: {options['num_steps']} is not allowed, expected at least 4")
  for name in ("seed", "suffix_vocabulary"):
    if options[name] < 0:
      raise ValueError(f"--{name}: {options[name]} is not allowed, expected 0 or more")
  if not (0 < options["learning_rate"] < float("inf")):
    raise ValueError(f"--learning_rate: {options['learning_rate']} is not allowed, expected a positive number")
  check_output(options["output"], folder=True)


def rq_vae_stages(module, embeddings, options):
  """Returns the stages start (codebooks by k-means), warm_up (a quarter of the steps, k-means again) and rq_vae."""
  import optax

  from ega_jax.data.pipeline import from_arrays
  from ega_jax.tokenization import rq_vae
  from ega_jax.training.stage import Stage

  restart = lambda params, previous: rq_vae.init_codebooks_by_kmeans(module, params, embeddings, options["seed"])

  def training(name, before, num_steps, finish=None):
    rate = optax.warmup_cosine_decay_schedule(0, options["learning_rate"], max(1, num_steps // 20), num_steps)
    return Stage(
      name=name,
      init=lambda rng, previous: previous[before],
      loss=rq_vae.rq_vae_loss_fn(module),
      batches=lambda previous: from_arrays({"embedding": embeddings}, options["batch_size"], options["seed"]),
      optimizer=optax.adam(rate),
      trainable=rq_vae.TRAINABLE,
      num_steps=num_steps,
      finish=finish,
    )

  first = options["num_steps"] // 4
  init = lambda rng, previous: module.init(rng, np.zeros((1, module.config.input_size), np.float32))["params"]
  start = Stage(name="start", init=init, finish=restart)
  return [
    start,
    training("warm_up", "start", first, restart),
    training("rq_vae", "warm_up", options["num_steps"] - first),
  ]


def fit_rq_kmeans(embeddings, options):
  """Returns (codes i32[N, L], reconstruction f32[N, D], arrays to store) by residual k-means."""
  from ega_jax.tokenization import residual

  codebooks = residual.fit_residual_kmeans(embeddings, options["levels"], options["codebook_size"], options["seed"])
  codes = residual.encode(embeddings, codebooks)
  return codes, residual.reconstruct(codes, codebooks), {"codebooks": codebooks}


def fit_rq_vae(embeddings, options):
  """Returns (codes i32[N, L], reconstruction f32[N, D], arrays to store) by training an RQ-VAE on all devices."""
  import jax

  from ega_jax.parallel.mesh import make_mesh
  from ega_jax.parallel.partition import path_name
  from ega_jax.tokenization import rq_vae
  from ega_jax.training import loop

  sizes = {name: options[name] for name in ("latent", "levels", "codebook_size")}
  module = rq_vae.RQVAE(rq_vae.RQVAEConfig(input_size=embeddings.shape[1], **sizes))
  config = {name: options[name] for name in (*sizes, "seed", "num_steps", "batch_size", "learning_rate")}
  # The input's digest belongs to the configuration: a folder must not continue on other embeddings.
  config["embeddings_crc32"] = zlib.crc32(np.ascontiguousarray(embeddings))
  settings = loop.Options(seed=options["seed"], log_every=100, config=config, replicate_uneven=True)
  stages = rq_vae_stages(module, embeddings, options)
  params = loop.run(stages, Path(options["output"]) / "training", make_mesh(), options=settings)["rq_vae"]
  params = jax.device_get(params)
  codes = rq_vae.encode(module, params, embeddings)
  stored = {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}
  return codes, rq_vae.reconstruct(module, params, codes), stored


def write_results(output, codes, ids, stored, metrics):
  """Writes the four result files into the folder `output`; metrics.json, the sign of completion, last."""
  from ega_jax.tokenization.semantic_ids import InvertedIndex

  output.mkdir(parents=True, exist_ok=True)
  np.save(output / "semantic_ids.npy", ids)
  np.savez(output / "codebooks.npz", **stored)
  InvertedIndex.from_codes(codes).save(output / "inverted_index.npz")
  (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


def run(options):
  """Returns the metrics of one tokenisation after writing its files. Raises ValueError for bad input."""
  check_flags(options)
  embeddings = read_embeddings(options["embeddings"])
  if options["codebook_size"] > len(embeddings):
    raise ValueError(f"--codebook_size: {options['codebook_size']} is not allowed for {len(embeddings)} items")
  from ega_jax.tokenization.metrics import tokenization_metrics
  from ega_jax.tokenization.semantic_ids import resolve_collisions

  begin = time.time()
  fit = fit_rq_vae if options["method"] == "rq_vae" else fit_rq_kmeans
  codes, reconstruction, stored = fit(embeddings, options)
  seconds = time.time() - begin
  collision = "suffix" if options["suffix"] else "bucket"
  ids = resolve_collisions(codes, collision=collision, suffix_vocabulary=options["suffix_vocabulary"] or None)
  metrics = {"options": options, "seconds": round(seconds, 2)}
  metrics |= tokenization_metrics(embeddings, codes, options["codebook_size"], reconstruction)
  write_results(Path(options["output"]), codes, ids, stored, metrics)
  return metrics


def parse(argv):
  """Returns the flags of the command line as a dict. Raises ValueError or flags.Error for what is not understood."""
  for name in FLAGS:
    FLAGS[name].unparse()  # back to the defaults: a process may parse more than one command line
  rest = FLAGS(argv)[1:]
  if rest:
    raise ValueError(f"arguments {rest} are not understood: flags have the form --name=value")
  return {name: FLAGS[name].value for name in FLAGS}


def main(argv):
  """Returns the exit code of a run with the command line `argv`, the program's name first."""
  if {"--help", "-h", "--helpfull"} & set(argv[1:]):
    print(f"{__doc__}\n{FLAGS.get_help()}")
    return 0
  try:
    print(json.dumps(run(parse(argv)), indent=2))
  except (flags.Error, ValueError, *FILE_ERRORS) as error:
    print(f"launch.tokenize: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
