"""launch.prepare_data: what it writes, that it is repeatable, and what it refuses."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import oracles_checkins as oracle
from ega_jax.data import examples, pipeline
from ega_jax.data.world import World
from ega_jax.evaluation import next_poi
from launch import prepare_data


def _prepare(**settings):
  flags.FLAGS.mark_as_parsed()
  output = settings.pop("output")
  with flagsaver.flagsaver(output=output and str(output), **settings):
    prepare_data.main([])


def _run(*arguments):
  command = [sys.executable, "-m", "launch.prepare_data", *arguments]
  return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def city(tmp_path_factory):
  directory = tmp_path_factory.mktemp("city")
  oracle.write_city(directory, visits=900)
  return str(directory)


@pytest.fixture(scope="module")
def prepared_city(city, tmp_path_factory):
  output = str(tmp_path_factory.mktemp("prepared") / "city")
  flagged = {"size": "tiny", "num_ads": 6, "num_organic": 5}
  _prepare(source="checkins", input=city, output=output, **flagged)
  return output


def test_the_command_writes_a_world_and_prints_its_sanity_figures(tmp_path):
  output = str(tmp_path / "world")
  done = _run("--source=world", "--size=tiny", "--seed=3", f"--output={output}")
  assert done.returncode == 0, done.stderr
  with open(os.path.join(output, "sanity.json"), encoding="utf-8") as file:
    sanity = json.load(file)
  assert sanity["seed"] == 3 and "--size=tiny" in sanity["command"]
  assert len(sanity["commit"].removesuffix("+uncommitted")) in (7, 40)
  for name, value in sanity["figures"].items():
    assert f"{name} " in done.stdout and np.isfinite(value)
  with open(os.path.join(output, "schema.json"), encoding="utf-8") as file:
    schema = json.load(file)
  assert schema["sizes"]["requests"] == 1200 == sum(split["count"] for split in schema["splits"].values())
  assert set(schema["columns"]) == set(examples.OBSERVED_COLUMNS)


def test_splits_catalogue_and_truth_fit_together(prepared_city):
  splits = {split: pipeline.read_split(prepared_city, split) for split in examples.SPLITS}
  rows = np.concatenate([columns["row"] for columns in splits.values()])
  np.testing.assert_array_equal(rows, np.arange(900))
  rest = len(splits["validation"]["row"]) + len(splits["test"]["row"])
  assert len(splits["validation"]["row"]) == int(0.4 * rest)
  catalog = pipeline.read_catalog(prepared_city)
  assert catalog.poi_place.shape == (40, 2)
  test = splits["test"]
  shown = np.take_along_axis(test["candidates"], test["shown_item"], 1)
  np.testing.assert_array_equal(catalog.creative_poi[test["shown_creative"]], shown)
  world = World.load(os.path.join(prepared_city, "truth", "world.npz"))
  np.testing.assert_array_equal(world.values(test["row"]), test["bid"])
  assert test["bid"].shape == (len(test["row"]), 11)


def test_a_city_gets_its_public_windows_and_their_floors(prepared_city):
  columns = pipeline.read_next_poi(prepared_city, "test")
  assert len(columns["row"]) == 12 and columns["candidates"].shape == (12, 0)
  assert [len(pipeline.read_next_poi(prepared_city, split)["row"]) for split in ("train", "validation")] == [12, 12]
  report = next_poi.floors(prepared_city)
  with open(os.path.join(prepared_city, "sanity.json"), encoding="utf-8") as file:
    assert json.load(file)["next_poi_floors"] == report
  for name in ("with_time", "without_time"):
    for split in ("validation", "test"):
      values = [report[name][split][f"acc@{k}"] for k in (1, 5, 10)]
      assert values == sorted(values) and values[-1] > 10 / 40  # better than guessing ten of forty


def test_the_same_command_gives_the_same_bytes_and_another_seed_others(city, prepared_city, tmp_path):
  def read(directory):
    arrays = {split: pipeline.read_split(directory, split) for split in examples.SPLITS}
    return {(split, name): values.tobytes() for split, columns in arrays.items() for name, values in columns.items()}

  settings = {"source": "checkins", "input": city, "size": "tiny", "num_ads": 6, "num_organic": 5}
  _prepare(output=tmp_path / "again", **settings)
  _prepare(output=tmp_path / "other", seed=1, **settings)
  first, again, other = read(prepared_city), read(str(tmp_path / "again")), read(str(tmp_path / "other"))
  assert first == again
  changed = {name for (split, name), values in other.items() if values != first[split, name]}
  assert {"bid", "click", "candidates", "fold"} <= changed
  assert not {"user", "row", "hour", "successor_poi", "target_poi"} & changed  # the city itself stays


def test_windows_with_visits_after_their_target_are_left_out(city, prepared_city, tmp_path, capsys):
  broken, output = tmp_path / "city", str(tmp_path / "prepared")
  shutil.copytree(city, broken)
  for name in ("val", "test"):
    path = broken / f"windows_{name}.csv"
    user, rest = path.read_text().splitlines()[-1].split(",", 1)
    late = rest.rsplit(",", 1)[0] + ",2020-01-01 00:00"  # before every visit
    path.write_text(path.read_text() + f"{user},{late}\n")
  _prepare(source="checkins", input=str(broken), output=output, size="tiny", num_ads=6, num_organic=5)
  assert "windows_test.csv: 1 of 13 left out" in capsys.readouterr().out
  for split in ("validation", "test"):
    kept, before = (pipeline.read_next_poi(folder, split) for folder in (output, prepared_city))
    np.testing.assert_array_equal(kept["target_time"], before["target_time"])


def test_requests_can_be_sampled(city, tmp_path):
  output = str(tmp_path / "sample")
  _prepare(source="checkins", input=city, output=output, size="tiny", num_ads=6, num_organic=5, max_requests=300)
  counts = [len(pipeline.read_split(output, split, ["row"])["row"]) for split in examples.SPLITS]
  assert sum(counts) == 300 and min(counts) > 0


def test_a_city_needs_neither_embeddings_nor_windows(city, tmp_path):
  plain, output = tmp_path / "city", str(tmp_path / "prepared")
  plain.mkdir()
  for name in ("checkins.tsv", "pois.tsv"):
    shutil.copy(os.path.join(city, name), plain)
  _prepare(source="checkins", input=str(plain), output=output, size="tiny", num_ads=6, num_organic=5, max_requests=300)
  pipeline.check_files(output)
  assert pipeline.read_next_poi(output, "test") is None and next_poi.floors(output) is None
  assert len(pipeline.read_split(output, "test", ["row"])["row"]) > 0


def test_an_unfinished_folder_is_written_again_and_a_foreign_one_left_alone(tmp_path):
  output = tmp_path / "world"
  output.mkdir()
  (output / "train.array_record").write_bytes(b"half")
  with pytest.raises(ValueError, match="schema.json: no such file"):
    pipeline.read_split(str(output), "train")
  _prepare(output=output, size="tiny")
  assert len(pipeline.read_split(str(output), "train", ["row"])["row"]) > 0
  (output / "thesis.tex").write_text("years of work")
  with pytest.raises(ValueError, match=r"holds 'thesis.tex', which this program did not write"):
    _prepare(output=output, size="tiny")
  assert (output / "thesis.tex").read_text() == "years of work" and (output / "schema.json").exists()


def test_bad_input_leaves_what_was_prepared_before(city, prepared_city, tmp_path):
  output = tmp_path / "data"
  shutil.copytree(prepared_city, output)
  before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
  broken = tmp_path / "city"
  shutil.copytree(city, broken)
  windows = (broken / "windows_test.csv").read_text()
  (broken / "windows_test.csv").write_text(windows.rstrip("\n") + "\n1,[oops\n")
  for where in (tmp_path / "no_such_city", broken):
    with pytest.raises(ValueError, match="pois.tsv: no such file|windows_test.csv, line"):
      _prepare(source="checkins", input=str(where), output=output, size="tiny", num_ads=6, num_organic=5)
  assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_damaged_catalogues_are_refused(prepared_city, tmp_path):
  with open(os.path.join(prepared_city, "catalog.npz"), "rb") as file:
    good = file.read()
  path = tmp_path / "catalog.npz"
  for bad in (good[: len(good) // 2], b"foreign", b""):
    path.write_bytes(bad)
    with pytest.raises(ValueError, match="catalog.npz: not an .npz file, or truncated"):
      pipeline.read_catalog(str(tmp_path))
  np.savez(path, poi_place=np.zeros((2, 2)))
  with pytest.raises(ValueError, match=r"catalog.npz: has \['poi_place'\], a catalogue has"):
    pipeline.read_catalog(str(tmp_path))


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"source": "interactions"}, "--source is 'interactions', allowed are world, checkins"),
    ({"size": "huge"}, "--size is 'huge', allowed are tiny, small, large"),
    ({"output": None}, "--output is missing"),
    ({"source": "checkins"}, "--source=checkins needs the folder"),
    ({"input": "somewhere"}, "world takes none"),
    ({"source": "checkins", "input": "/nowhere"}, "pois.tsv: no such file"),
    ({"seed": -1}, "--seed is -1"),
    ({"max_requests": -5}, "--max_requests -5"),
    ({"size": "tiny", "list_length": 0}, "list_length = 0"),
  ],
)
def test_bad_input_is_refused(tmp_path, settings, message):
  with pytest.raises(ValueError, match=message):
    _prepare(**({"output": tmp_path / "out"} | settings))


def test_bad_input_exits_with_2_and_names_it(tmp_path):
  done = _run("--source=interactions", f"--output={tmp_path / 'out'}")
  assert done.returncode == 2 and "world, checkins" in done.stderr and "Traceback" not in done.stderr
