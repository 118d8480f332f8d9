"""One seed of the comparison: every system at equal ad load, its welfare and clicks, its payments, its incentives.

Totals per user are kept (npz) beside the figures (JSON), so that a report over seeds needs no model.
"""

import hashlib
import json
import os
import time

import jax
import numpy as np

from ega_jax.data.pipeline import read_split
from ega_jax.data.world import World
from ega_jax.evaluation import (
  audit,
  audit_views,
  equilibrium,
  flops,
  load,
  market,
  next_poi_model,
  payments,
  reward_quality,
)
from ega_jax.evaluation.lineup import systems
from ega_jax.evaluation.systems import evaluate_system, truthful
from ega_jax.stages.batches import REQUEST
from ega_jax.systems.balance import logged_ad_share, mean_ad_share
from ega_jax.training.checkpoint import write_json

COLUMNS = (*REQUEST, "row")
FIGURES = "figures.json"


def sample(directory, split, count, chunk):
  """Returns request columns of at most `count` requests of a split, evenly spread, a multiple of the chunk."""
  total = len(read_split(directory, split, ("row",))["row"])
  count = max(min(count, total) // chunk, 1) * chunk
  return read_split(directory, split, COLUMNS, np.linspace(0, total - 1, count).astype(int))


def evaluate_seed(config, finals, output, *, only=(), commit="unknown", say=print):
  """Writes OUTPUT/{name}.npz and figures.json for every system of the line-up, and returns the figures.

  Rows found in OUTPUT that the same commit made from the same config and parameters are kept: an evaluation that was
  killed goes on with the row it was at.

  Args:
    config: the experiment's config. finals: {stage: params}. say: progress, one line per system.
    only: names of systems, which are evaluated anew; empty: all that are not there yet.
    commit: of the code; where it is "unknown" or "+uncommitted" nothing is kept.
  """
  options, chunk = config.evaluation, config.evaluation.chunk
  if options.equilibrium_load not in ("equal", "fixed"):
    raise ValueError(f"config.evaluation.equilibrium_load is {options.equilibrium_load!r}; allowed: 'equal', 'fixed'")
  world = World.load(os.path.join(config.data, "truth", "world.npz"))
  entries = systems(config, finals, world, only)
  validation = sample(config.data, "validation", options.validation_requests, chunk)
  balancing = sample(config.data, "validation", options.load_requests, chunk)
  test = sample(config.data, "test", options.requests, chunk)
  priced = sample(config.data, "test", options.priced_requests, chunk)
  loaded = sample(config.data, "test", options.frontier_requests, chunk)
  target = logged_ad_share(read_split(config.data, "validation", ("shown_item", "explored", "is_ad")))
  equal = load.EqualLoad(balancing, target, chunk, config.list_length)
  believe = reward_quality.evaluator(config, finals["policy"])
  os.makedirs(output, exist_ok=True)
  made_by = {"commit": commit, "config": json.loads(config.to_json_best_effort()), "parameters": digest(finals)}
  figures = kept_figures(output, made_by) or {**made_by, "target_ad_share": target, "systems": {}}
  seen, before = {}, None
  for name, make in (
    ("reward", lambda: reward_quality.quality(config, finals["policy"])),
    ("next_poi", lambda: next_poi_model.compare(config, finals["pretrain"])),
  ):
    if name not in figures:
      figures[name] = make()
      write_json(os.path.join(output, FIGURES), figures, sort_keys=False)
  for entry in entries:
    if entry.name in figures["systems"] and entry.name not in only:
      continue
    start, by_price = time.time(), entry.by_slot_price
    entry = equal.balanced(entry)
    if before not in (None, entry.system):
      before.forget()  # memory; rows of one system follow each other
    before = entry.system
    if entry.system not in seen:  # rows may share a system, and differ by payments
      points = load.frontier_points(entry.system, loaded, world, chunk) if by_price else []
      totals = evaluate_system(
        entry.system, payments.Free(), test, world, believe, sigma=config.value_sigma, chunk_size=chunk
      )
      seen[entry.system] = totals, {"frontier": points} | {
        "milliseconds": milliseconds(entry.system, loaded, chunk), "flops": operations(entry.system, loaded, chunk),
      }  # fmt: skip
    totals, of_system = seen[entry.system]
    found = assess_entry(entry, config, world, believe, equal, validation, priced, totals, output) | of_system
    found |= {"parameters": entry.parameters, "seconds": time.time() - start}
    rows = figures["systems"] | {entry.name: found}
    figures["systems"] = {name: rows[name] for name in sorted(rows, key=(*config.systems, *rows).index)}
    say(f"{entry.name}: {found['seconds']:.0f} s")
    write_json(os.path.join(output, FIGURES), figures, sort_keys=False)  # rows keep their order
  return figures


def digest(tree):
  """Returns a hexadecimal digest of all arrays of a tree."""
  found = hashlib.sha256()
  for leaf in jax.tree.leaves(tree):
    found.update(np.ascontiguousarray(leaf).tobytes())
  return found.hexdigest()


def kept_figures(output, made_by):
  """Returns the figures of an earlier evaluation in OUTPUT, None unless commit, config and parameters are these."""
  path = os.path.join(output, FIGURES)
  if made_by["commit"].endswith(("unknown", "+uncommitted")) or not os.path.isfile(path):
    return None
  with open(path, encoding="utf-8") as file:
    figures = json.load(file)
  return figures if all(figures.get(key) == value for key, value in made_by.items()) else None


def milliseconds(system, columns, chunk):
  """Returns the mean wall time of one request's allocation, `chunk` of `columns` at once, compiled before.

  What the system keeps of earlier calls is dropped first: a request that is served comes once.
  """
  system.forget()
  start = time.perf_counter()
  mean_ad_share(system, columns, chunk)
  return 1000 * (time.perf_counter() - start) / len(columns["row"])


def operations(system, columns, chunk):
  """Returns the floating-point operations of one request's allocation (`flops.of_function`)."""
  batch = {name: column[:chunk] for name, column in columns.items()}
  return flops.of_system(system, batch, truthful(batch))


def assess_entry(entry, config, world, believe, equal, validation, priced, totals, output):
  """Returns the figures of one system; its totals go to OUTPUT/{name}.npz.

  totals: of `evaluate_system` on the test requests.
  believe: (batch, slate) -> predictions of the one reward model by which every system is judged as `model`.
  """
  options, chunk = config.evaluation, config.evaluation.chunk
  paid = evaluate_system(entry.system, entry.rule, priced, world, believe, chunk_size=chunk)
  kept = {"test": totals, "priced": paid}
  figures = {"note": entry.note, "knob": entry.system.knob}
  if not isinstance(entry.rule, payments.Free):
    auditing = audit.AuditOptions(
      num_requests=options.audited_requests, num_unshown=options.unshown, num_nodes=options.nodes,
      sigma=config.value_sigma, requests_per_call=chunk, refinements=options.refinements, seed=config.seed,
    )  # fmt: skip
    found = audit.audit_system(entry.system, entry.rule, priced, world, auditing)
    figures |= {f"audit/{name}": value for name, value in audit.audit_figures(found, auditing).items()}
    kept["audited"] = audit_views.myerson_totals(found)
    figures["curves"] = plain(audit_views.example_curves(found))
    figures["scatter"] = plain(audit_views.payment_scatter(found))
    shading = equilibrium.EquilibriumOptions(
      num_requests=options.equilibrium_requests, num_unshown=options.unshown, sigma=config.value_sigma,
      requests_per_call=chunk, seed=config.seed,
    )  # fmt: skip
    setting = equal.by_bids(entry) if options.equilibrium_load == "equal" else lambda g: (entry.system, entry.rule)
    found = equilibrium.shading_equilibrium(setting, validation, world, shading)
    figures |= {"shading": found.multiplier if found.converged else "none", "residual_gain": found.gain}
    if found.converged:
      kept["equilibrium"] = paid
      if found.multiplier != 1.0:
        kept["equilibrium"] = evaluate_system(
          *setting(found.multiplier), priced, world, believe, shading=found.multiplier, chunk_size=chunk
        )
  arrays = {f"{sample}/{key}": value for sample, some in kept.items() for key, value in market.by_user(some).items()}
  np.savez_compressed(os.path.join(output, f"{entry.name}.npz"), **arrays)
  return figures


def plain(value):
  """Returns `value` with arrays as lists."""
  if isinstance(value, dict):
    return {key: plain(one) for key, one in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(one) for one in value]
  return value.tolist() if hasattr(value, "tolist") else value
