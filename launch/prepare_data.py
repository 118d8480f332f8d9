"""Writes prepared data: a generated marketplace, or one laid over real check-ins, as ArrayRecord files.

  python -m launch.prepare_data --source=world --size=small --output=DIR
  python -m launch.prepare_data --source=checkins --input=CITY --output=DIR

CITY holds checkins.tsv, pois.tsv and, optionally, category_embeddings.npy and windows_{train,val,test}.csv. DIR gets
catalog.npz, {train,validation,test}.array_record, truth/, sanity.json, next_poi_{train,validation,test}.npz where the
city has windows, requests.jsonl with --export_requests, and last of all schema.json. The sanity figures are printed.
Exit codes: 0 done, 1 failed, 2 bad input.
"""

import dataclasses
import os
import shutil
import time

import numpy as np
from absl import flags

from ega_jax.data import checkins as checkins_lib
from ega_jax.data import examples, marketplace, records, sanity, windows
from ega_jax.data.requests import request_line
from ega_jax.evaluation import next_poi
from launch import binary

SOURCES = ("world", "checkins")
SIZES = ("tiny", "small", "large")
_FILES = {"catalog.npz", "sanity.json", "schema.json", "truth"}
_FILES |= {f"next_poi_{split}.npz" for split in examples.SPLITS}
_FILES |= {"requests.jsonl"}
_FILES |= {f"{split}.array_record" for split in examples.SPLITS}

_SOURCE = flags.DEFINE_string("source", "world", f"Where the data come from: {' or '.join(SOURCES)}.")
_INPUT = flags.DEFINE_string("input", None, "Folder of the city (checkins).")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write; new, empty, or written by this program.")
_SIZE = flags.DEFINE_string("size", "small", f"One of {', '.join(SIZES)}; over check-ins: of pages, not of the city.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything that is drawn, >= 0.")
_MAX_REQUESTS = flags.DEFINE_integer("max_requests", 0, "Keep a seeded sample of this many requests; 0 keeps all.")
_NUM_ADS = flags.DEFINE_integer("num_ads", None, "Candidate ads of a request, instead of the size's.")
_NUM_ORGANIC = flags.DEFINE_integer("num_organic", None, "Organic items of a request, instead of the size's.")
_LIST_LENGTH = flags.DEFINE_integer("list_length", None, "Slots of a page, instead of the size's.")
_EXPORT = flags.DEFINE_integer("export_requests", 0, "Also write this many test requests as requests.jsonl.")


def main(overrides):
  """Writes the prepared directory; the exit codes are launch.binary's."""
  if overrides:
    raise ValueError(f"{overrides[0]!r} is unknown here: there is no config, settings are --name=value")
  prepare(_OUTPUT.value)


def prepare(output):
  """Writes the prepared directory that the flags ask for. Raises ValueError on bad input."""
  start = time.time()
  config = _config()
  binary.check_output(output, folder=True)
  _refuse_foreign(output)
  market, city = _marketplace(config)
  _say(start, f"marketplace: {len(market.requests['row'])} requests, cut at {np.datetime64(market.cut_time, 'm')}")
  columns = examples.build_columns(market, _SEED.value)
  bounds = examples.split_bounds(market.requests["time"], market.cut_time)
  empty = [split for split, (first, end) in bounds.items() if first == end]
  if empty:
    raise ValueError(f"no requests for {empty[0]}: {len(columns['row'])} requests in all, the cut is {market.cut_time}")
  found = {} if city is None else _windows(city, market.cut_time)
  _empty(output)  # not before: bad input must not cost what was there
  os.makedirs(os.path.join(output, "truth"))
  np.savez(os.path.join(output, "catalog.npz"), **dataclasses.asdict(market.catalog))
  market.world.save(os.path.join(output, "truth", "world.npz"))
  for split, columns_of in found.items():
    np.savez(os.path.join(output, f"next_poi_{split}.npz"), **columns_of)
  _write_sanity(output, market, start)
  splits = {}
  for split, (first, end) in bounds.items():
    path = os.path.join(output, f"{split}.array_record")
    splits[split] = records.write_records(path, columns, first, end)
    _say(start, f"{split}: {end - first} requests, {splits[split]['file_bytes'] / 2**20:.1f} MiB")
  if _EXPORT.value:
    _export(output, columns, *bounds["test"])
  records.write_schema(output, _schema(market, columns, splits))
  _say(start, f"done: {output}")


def _config():
  """Returns the WorldConfig of the flags."""
  if _SOURCE.value not in SOURCES:
    raise ValueError(f"--source is {_SOURCE.value!r}, allowed are {', '.join(SOURCES)}")
  if _SIZE.value not in SIZES:
    raise ValueError(f"--size is {_SIZE.value!r}, allowed are {', '.join(SIZES)}")
  if not _OUTPUT.value:
    raise ValueError("--output is missing: the folder to write")
  if _EXPORT.value < 0:
    raise ValueError(f"--export_requests is {_EXPORT.value}, it must be >= 0")
  if _SEED.value < 0 or _MAX_REQUESTS.value < 0:
    raise ValueError(f"--seed is {_SEED.value} and --max_requests {_MAX_REQUESTS.value}, both must be >= 0")
  if bool(_INPUT.value) != (_SOURCE.value == "checkins"):
    raise ValueError(f"--input is {_INPUT.value!r}: --source=checkins needs the folder of the city, world takes none")
  config = marketplace.PRESETS[_SIZE.value]
  if _SOURCE.value == "checkins":  # the city brings its size; pages, targeting and recall are the size's
    pages = {"num_ads", "num_organic", "list_length", "recall"}
    config = dataclasses.replace(marketplace.NEW_YORK, **{name: getattr(config, name) for name in pages})
  changes = {"num_ads": _NUM_ADS.value, "num_organic": _NUM_ORGANIC.value, "list_length": _LIST_LENGTH.value}
  changes = {name: value for name, value in changes.items() if value is not None}
  return dataclasses.replace(config, max_requests=_MAX_REQUESTS.value, **changes)


def _refuse_foreign(output):
  """Raises ValueError if a folder holds anything that this program did not write."""
  foreign = sorted(set(os.listdir(output)) - _FILES) if os.path.isdir(output) else []
  if foreign:
    raise ValueError(f"--output={output} holds {foreign[0]!r}, which this program did not write; name a new folder")


def _empty(output):
  """Makes the folder, without what an earlier call wrote: its schema first, so that what is half gone is not read."""
  os.makedirs(output, exist_ok=True)
  for name in sorted(os.listdir(output), key=lambda name: name != "schema.json"):
    path = os.path.join(output, name)
    shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


def _marketplace(config):
  """Returns (Marketplace, Checkins or None)."""
  if _SOURCE.value == "world":
    return marketplace.generate(config, _SEED.value), None
  city = checkins_lib.read_checkins(_INPUT.value)
  return marketplace.over_checkins(city, config, _SEED.value, windows.cut_time_of(_INPUT.value, city)), city


def _windows(city, cut_time):
  """Returns {split: columns} of the public next-POI windows of the city, where it has them."""
  columns = {}
  for name, split in (("train", "train"), ("val", "validation"), ("test", "test")):
    found = windows.read_windows(_INPUT.value, name, city)
    if found is not None:  # New York's of training hold some that know of visits after their target
      wrong = windows.out_of_order(found)
      found = windows.select(found, ~wrong)
      says = f"  windows_{name}.csv: {wrong.sum()} of {len(wrong)} left out, visits out of order or after their target"
      print(says, flush=True)
    if found is not None and len(found.target):
      columns[split] = windows.window_columns(found, city, cut_time)
  return columns


def _export(output, columns, first, end):
  """Writes the first requests of the test split as launch.generate takes them."""
  rows = range(first, min(end, first + _EXPORT.value))
  columns = {name: columns[name] for name in examples.REQUEST_COLUMNS}
  with open(os.path.join(output, "requests.jsonl"), "w", encoding="utf-8") as file:
    file.writelines(request_line(columns, row) + "\n" for row in rows)


def _schema(market, columns, splits):
  """Returns what schema.json says: layout, counts, sizes, cut and where the data come from."""
  catalog = market.catalog
  return {
    "columns": records.layout_of(columns),
    "splits": splits,
    "sizes": {
      "users": int(market.behaviour.num_users),
      "pois": len(catalog.poi_place),
      "creatives": len(catalog.creative_poi),
      "requests": len(columns["row"]),
      "candidates": columns["candidates"].shape[1],
      "organic": market.config.num_organic,
      "ads": market.config.num_ads,
      "list_length": market.list_length,
    },
    "cut_time": int(market.cut_time),
    "source": _SOURCE.value,
    "config": dataclasses.asdict(market.config),
    "seed": _SEED.value,
  } | binary.provenance()


def _write_sanity(output, market, start):
  """Writes and prints the sanity figures with their allowed bands, and the next-POI floors of a city's windows."""
  figures = {name: float(value) for name, value in sanity.figures(market, _SEED.value).items()}
  outside = sanity.violations(figures)
  floors = next_poi.floors(output)
  bands = {name: [bound if np.isfinite(bound) else None for bound in band] for name, band in sanity.BANDS.items()}
  binary.write_report(
    os.path.join(output, "sanity.json"),
    {"seed": _SEED.value, "figures": figures, "bands": bands, "outside": outside, "next_poi_floors": floors},
  )
  _say(start, "sanity figures (allowed):")
  for name, value in figures.items():
    low, high = sanity.BANDS.get(name, (-np.inf, np.inf))
    print(f"  {name:26s} {value:8.4f}  ({low:g} .. {high:g}){'' if low <= value <= high else '  OUTSIDE'}", flush=True)
  for name, floor in (floors or {}).items():
    print(f"  next-POI floor {name}: {', '.join(f'{k} {v:.3f}' for k, v in floor['test'].items())}", flush=True)


def _say(start, message):
  print(f"[{time.time() - start:6.1f} s] {message}", flush=True)


if __name__ == "__main__":
  binary.run(main)
