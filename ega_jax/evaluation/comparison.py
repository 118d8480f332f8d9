"""One seed of the comparison: every system at equal ad load, its welfare and clicks, its payments, its incentives.

Totals per user are kept (npz) beside the figures (JSON), so that a report over seeds needs no model.
"""

import hashlib
import json
import os
import time

import numpy as np

from ega_jax.data import records
from ega_jax.data.world import World
from ega_jax.evaluation import assessment, flops, load, market, next_poi_model, payments, reward_quality
from ega_jax.evaluation.kept_rows import Rows
from ega_jax.evaluation.lineup import systems
from ega_jax.evaluation.systems import evaluate_system, truthful
from ega_jax.stages import recipe
from ega_jax.stages.batches import REQUEST, evenly
from ega_jax.stages.market import balancing_requests, target_ad_share
from ega_jax.systems.balance import mean_ad_share
from ega_jax.systems.kept import digest
from ega_jax.training.writers import Progress

COLUMNS = (*REQUEST, "row")


def sample(directory, split, count, chunk):
  """Returns the columns that an evaluation reads of `count` requests of a split, spread `evenly`, a multiple of
  `chunk`.

  directory: prepared data.
  """
  return evenly(directory, split, COLUMNS, count, chunk)


def made_by(config, finals, commit):
  """Returns what decides the figures of a run, {"commit", "config", "parameters", "data"}: texts and JSON types."""
  data = json.dumps(records.identity(config.data), sort_keys=True).encode()
  origin = {"commit": commit, "config": json.loads(config.to_json_best_effort()), "parameters": digest(finals)}
  return origin | {"data": hashlib.sha256(data).hexdigest()}


def evaluate_seed(config, finals, output, *, only=(), commit="unknown", say=print):
  """Writes OUTPUT/{name}.npz and figures.json for every system of the line-up, and returns the figures.

  Rows found in OUTPUT that the same commit made from the same config, data and parameters are kept: an evaluation that
  was killed goes on with the row it was at, and several processes share the rows out. Rows of another origin are set
  aside (OUTPUT.1, ..).

  Args:
    config: the experiment's config. finals: {stage: params}. say: progress, one line per system.
    only: names of systems, which are evaluated anew; empty: all that are not there yet.
    commit: of the code; where it is "unknown" or "+uncommitted" nothing is kept.
  """
  options, chunk = config.evaluation, config.evaluation.chunk
  recipe.check_settings(config)
  world = World.load(os.path.join(config.data, "truth", "world.npz"))
  # From the end of the list, where the rows are that take longest: two processes then finish together.
  entries = systems(config, finals, world, tuple(reversed(only or config.systems)))
  validation = sample(config.data, "validation", options.validation_requests, chunk)
  test = sample(config.data, "test", options.requests, chunk)
  priced = sample(config.data, "test", options.priced_requests, chunk)
  loaded = sample(config.data, "test", options.frontier_requests, chunk)
  target, (balancing, fine) = target_ad_share(config.data), balancing_requests(config)
  equal = load.EqualLoad(balancing, target, chunk, config.list_length, fine)
  believe = reward_quality.evaluator(config, finals["policy"])
  with Rows(output, made_by(config, finals, commit), config.systems, target_ad_share=target) as rows:
    for name, make in (
      ("reward", lambda: reward_quality.quality(config, finals["policy"])),
      ("next_poi", lambda: next_poi_model.compare(config, finals["pretrain"])),
    ):
      with rows.claimed(name) as mine:
        if mine:
          rows.add_part(name, make())
    samples = {"validation": validation, "priced": priced, "test": test, "loaded": loaded}
    seen, before = {}, None
    for entry in entries:
      with rows.claimed(entry.name, anew=entry.name in only) as mine:
        if not mine:
          continue
        if before not in (None, entry.system):
          before.forget()  # memory; rows of one system follow each other
        found, arrays, before = row(config, entry, world, believe, equal, samples, seen, say)
        np.savez_compressed(os.path.join(output, f"{entry.name}.npz"), **arrays)
        rows.add(entry.name, found)
    return rows.figures


def row(config, entry, world, believe, equal, samples, seen, say=print):
  """Returns (figures, {"sample/figure": totals per user}, the system at the ad load) of an Entry.

  Args: config, world, believe, equal: of `assessment.assess`. samples: {"validation", "priced", "test", "loaded"}:
    request columns. seen: {system: its figures and test totals}, to which new ones are added: rows may share a system,
    and differ by payments. say: told of the time that the row took.
  """
  chunk = config.evaluation.chunk
  laps, by_price = Laps(Progress(entry.name, 0).say), entry.by_slot_price
  entry = equal.balanced(entry)
  laps("balance")
  if entry.system not in seen:
    points = load.frontier_points(entry.system, samples["loaded"], world, chunk) if by_price else []
    laps("frontier")
    totals = evaluate_system(
      entry.system, payments.Free(), samples["test"], world, believe, sigma=config.value_sigma, chunk_size=chunk
    )
    time_of, count_of = (of(entry.system, samples["loaded"], chunk) for of in (milliseconds, operations))
    seen[entry.system] = totals, {"frontier": points, "milliseconds": time_of, "flops": count_of}
    laps("test")
  totals, of_system = seen[entry.system]
  found, kept = assessment.assess(entry, config, world, believe, equal, samples, laps)
  arrays = {f"{name}/{key}": value for name, some in ({"test": totals} | kept).items()
            for key, value in market.by_user(some).items()}
  say(f"{entry.name}: {laps}")
  found |= of_system | {"parameters": entry.parameters, "seconds": laps.total, "seconds_of": laps.parts}
  return found, arrays, entry.system


class Laps:
  """Seconds of the parts of a row, one after the other; `say` is told of each as it ends."""

  def __init__(self, say=lambda text: None):
    self.parts, self.last, self.say = {}, time.time(), say

  def __call__(self, part):
    """Ends a part, which began where the one before ended."""
    now = time.time()
    self.parts[part], self.last = now - self.last, now
    self.say(f"{part} took {self.parts[part]:.0f} s")

  @property
  def total(self):
    """Seconds of all parts."""
    return sum(self.parts.values())

  def __str__(self):
    return f"{self.total:.0f} s ({', '.join(f'{part} {seconds:.0f}' for part, seconds in self.parts.items())})"


def milliseconds(system, columns, chunk):
  """Returns the mean wall time of one request's allocation, `chunk` of request columns [n, ...] at once, compiled
  before.

  What the system keeps of earlier calls is dropped first: a request that is served comes once.
  """
  system.forget()
  start = time.perf_counter()
  mean_ad_share(system, columns, chunk)
  return 1000 * (time.perf_counter() - start) / len(columns["row"])


def operations(system, columns, chunk):
  """Returns the floating-point operations of one request's allocation (`flops.of_function`), by the first `chunk` of
  request columns [n, ...].
  """
  batch = {name: column[:chunk] for name, column in columns.items()}
  return flops.of_system(system, batch, truthful(batch))
