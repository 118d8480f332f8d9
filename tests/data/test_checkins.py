"""The reader of a city: what was written comes back in positions, and broken files are named with their line."""

import datetime
import os

import numpy as np
import pytest

import oracles_checkins as oracle
from ega_jax.data import checkins, windows


@pytest.fixture
def city(tmp_path):
  oracle.write_city(tmp_path)
  return str(tmp_path)


def _rewrite(directory, name, change):
  """Replaces the lines of a file by change(lines)."""
  path = os.path.join(directory, name)
  with open(path, encoding="utf-8") as file:
    lines = file.read().splitlines()
  with open(path, "w", encoding="utf-8") as file:
    file.write("\n".join(change(lines)) + "\n")


def test_checkins_come_back_sorted_by_time(tmp_path):
  written = oracle.write_city(tmp_path)
  read = checkins.read_checkins(str(tmp_path))
  expected = [(user, oracle.minutes(moment), poi) for user, moment, poi in sorted(written, key=lambda row: row[1])]
  users, pois = read.user_ids[read.user].tolist(), read.poi_ids[read.poi].tolist()
  assert list(zip(users, read.time.tolist(), pois, strict=True)) == expected
  assert read.user_ids.tolist() == [f"u{i}" for i in range(12)]
  assert (read.num_users, read.num_pois, read.embedding.shape) == (12, 40, (40, 8))
  assert read.category.tolist() == [i % 5 for i in range(40)] and read.category_names[4] == "category 4"


def test_places_are_kilometres(tmp_path):
  lat, lon = np.array([60.0, 60.1, 60.0]), np.array([10.0, 10.0, 10.2])
  place = checkins.local_plane(lat, lon)
  one_degree = 2 * np.pi * 6371 / 360
  np.testing.assert_allclose(place[1] - place[0], [0, 0.1 * one_degree], atol=1e-3)
  np.testing.assert_allclose(place[2] - place[0], [0.2 * one_degree * 0.5, 0], atol=1e-3)


def test_embeddings_are_optional(city):
  os.remove(os.path.join(city, "category_embeddings.npy"))
  assert checkins.read_checkins(city).embedding is None


def _set(line, text):
  return lambda lines: lines[:line] + [text] + lines[line + 1 :]


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    ("checkins.tsv", _set(0, "user\ttime\tpoi"), r"checkins.tsv, line 1: column 'local_time' is missing"),
    ("checkins.tsv", lambda lines: lines[:-1] + [lines[-1][:9]], r"line 601: 2 columns.*truncated"),
    ("checkins.tsv", _set(3, "u1\t2020-03-02 08:00"), r"checkins.tsv, line 4: 2 columns, the header has 3$"),
    ("checkins.tsv", _set(7, "u1\t2020-03-02 08:00\t101"), r"checkins.tsv, line 8: poi 101 is not in pois.tsv"),
    ("checkins.tsv", _set(7, "u1\t2020-03-02 08:00\tbar"), r"checkins.tsv, line 8: poi is 'bar', an integer"),
    ("checkins.tsv", _set(9, "u1\t2020-02-30 08:00\t103"), r"line 10: .* '2020-02-30 08:00', which is no date"),
    ("checkins.tsv", _set(9, "u1\tMon Mar 02\t103"), r"line 10: local_time is 'Mon Mar 02', a time"),
    ("checkins.tsv", lambda lines: lines[:1], r"checkins.tsv: no check-ins"),
    ("checkins.tsv", lambda lines: [""], r"checkins.tsv: the file is empty"),
    ("pois.tsv", _set(2, "217\tbar\tnan\t-74"), r"pois.tsv, line 3: lat is 'nan', degrees within"),
    ("pois.tsv", _set(2, "217\tbar\t40\t-740"), r"pois.tsv, line 3: lon is '-740', degrees within"),
    ("pois.tsv", _set(2, "220\tbar\t40\t-74"), r"pois.tsv, line 3: poi 220 occurs twice"),
    ("pois.tsv", lambda lines: lines[:-1] + [lines[-1].rsplit("\t", 1)[0]], r"pois.tsv, line 41: 3 columns.*truncated"),
  ],
)
def test_a_broken_table_is_named_with_its_line(city, name, change, message):
  _rewrite(city, name, change)
  with pytest.raises(ValueError, match=message):
    checkins.read_checkins(city)


TABLES = ("checkins.tsv", "pois.tsv", "windows_train.csv", "windows_val.csv", "windows_test.csv")


def _read_all(directory):
  read = checkins.read_checkins(directory)
  found = [windows.read_windows(directory, name, read) for name in ("train", "val", "test")]
  return [read.time, read.poi, read.place, *(one.time for one in found), *(one.target for one in found)]


def test_marks_and_blank_lines_at_the_ends_of_files_change_nothing(city):
  before = _read_all(city)
  for name in TABLES:
    path = os.path.join(city, name)
    with open(path, encoding="utf-8") as file:
      text = file.read()
    with open(path, "w", encoding="utf-8-sig") as file:
      file.write(text + "\n  \n\n")
  for one, other in zip(before, _read_all(city), strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", TABLES)
def test_a_file_without_its_last_newline_may_be_truncated(city, name):
  path = os.path.join(city, name)
  with open(path, "r+b") as file:
    file.truncate(os.path.getsize(path) - 1)  # one digit less could be another id
  expected = f"{name}: the last line does not end with a newline, .* truncated; end it with a newline if it is complete"
  with pytest.raises(ValueError, match=expected):
    _read_all(city)


def test_missing_files_and_wrong_embeddings_are_named(city):
  path = os.path.join(city, "category_embeddings.npy")
  np.save(path, np.zeros((39, 8), np.float16))
  with pytest.raises(ValueError, match=r"category_embeddings.npy: shape \(39, 8\), but pois.tsv has 40 POIs"):
    checkins.read_checkins(city)
  np.save(path, np.full((40, 8), np.nan, np.float16))
  with pytest.raises(ValueError, match="finite"):
    checkins.read_checkins(city)
  with open(path, "r+b") as file:
    file.truncate(200)
  with pytest.raises(ValueError, match="truncated"):
    checkins.read_checkins(city)
  with open(path, "wb") as file:
    np.savez(file, embeddings=np.zeros((40, 8)))
  with pytest.raises(ValueError, match="category_embeddings.npy: an archive of arrays; one .npy array is needed"):
    checkins.read_checkins(city)
  os.remove(os.path.join(city, "pois.tsv"))
  with pytest.raises(ValueError, match="pois.tsv: no such file"):
    checkins.read_checkins(city)


def _window(pois="[220, 217]", times="['2020-03-02 08:00', '2020-03-02 09:30']", target=214, when="2020-03-03 00:30"):
  return f'u3,"{pois}","{times}",{target},{when}'


@pytest.mark.parametrize(
  ("row", "message"),
  [
    (_window(pois="[220, 218]"), r"windows_test.csv, line 3: Pids: POI 218 is not in pois.tsv"),
    (_window(target=215), r"windows_test.csv, line 3: Target 215 is not in pois.tsv"),
    (_window(pois="[220]"), r"line 3: 1 Pids and 2 Times"),
    (_window(pois="220, 217"), r"line 3: Pids is '220, 217', a list"),
    (_window(pois="[220, 217.5]"), r"line 3: Pids is 217.5, an integer"),
    (_window(pois="[220, True]"), r"line 3: Pids is True, an integer"),
    (_window(target="2_14"), r"line 3: Target is '2_14', an integer"),
    (_window(times="['2020-03-02 08:00', 'noon']"), r"line 3: Times is 'noon', a time"),
    (_window(when="2020-13-01 00:00"), r"line 3: Target_time is '2020-13-01 00:00', which is no date"),
    (_window().replace("u3", "u99"), r"line 3: Uid 'u99' is not a user"),
    ('u3,"[220]"', r"line 3: 2 columns, the header has 5$"),
    (_window(pois="[" * 50000), r"line 3: Pids is '\[\[\[.*a list"),
    (_window(pois=f"[{'220, ' * 30000}217]"), r"windows_test.csv: not a table of comma-separated values"),
  ],
)
def test_a_broken_window_is_named_with_its_line(city, row, message):
  _rewrite(city, "windows_test.csv", _set(2, row))
  with pytest.raises(ValueError, match=message):
    windows.read_windows(city, "test", checkins.read_checkins(city))


def test_the_cut_is_the_last_training_target(city):
  read = checkins.read_checkins(city)
  _rewrite(city, "windows_train.csv", lambda lines: lines[:1] + [_window(when="2020-03-09 10:00"), _window()])
  assert windows.cut_time_of(city, read) == oracle.minutes(datetime.datetime(2020, 3, 9, 10, 0))
  os.remove(os.path.join(city, "windows_train.csv"))
  assert windows.cut_time_of(city, read) == np.sort(read.time)[480]


def test_window_columns_hold_the_visits_of_the_window(city):
  read = checkins.read_checkins(city)
  _rewrite(city, "windows_test.csv", lambda lines: lines[:1] + [_window()])
  cut = int(np.median(read.time))
  columns = windows.window_columns(windows.read_windows(city, "test", read), read, cut)
  assert columns["history_poi"][0, -3:].tolist() == [-1, 0, 1]
  assert columns["history_action"][0, -3:].tolist() == [0, 1, 1]
  np.testing.assert_allclose(columns["history_age"][0, -3:], [0, 16.5, 15])
  assert columns["history_hour"][0, -2:].tolist() == [8, 9] and columns["hour"].tolist() == [24]
  np.testing.assert_array_equal(columns["place"][0], read.place[1])
  assert columns["target_poi"].tolist() == [[2]] and columns["hour_known"].all()
  assert columns["candidates"].shape == (1, 0)
  visits = list(zip(read.user.tolist(), read.time.tolist(), read.poi.tolist(), strict=True))
  before = min(cut, oracle.minutes(datetime.datetime(2020, 3, 3, 0, 30)))
  expected = oracle.successors(visits, 1, before, 32)
  assert [x for x in columns["successor_poi"][0].tolist() if x >= 0] == [poi for poi, _ in expected]
  untimed = windows.without_target_time(columns)
  np.testing.assert_allclose(untimed["history_age"][0, -3:], [0, 1.5, 0])
  assert untimed["hour"].tolist() == [9] and not untimed["hour_known"].any() and "target_time" not in untimed


def test_windows_out_of_order_are_refused(city):
  read = checkins.read_checkins(city)
  _rewrite(city, "windows_test.csv", lambda lines: lines[:1] + [_window(when="2020-03-02 09:00")])
  with pytest.raises(ValueError, match="in order"):
    windows.window_columns(windows.read_windows(city, "test", read), read, 0)
  found = windows.read_windows(city, "test", read)
  assert windows.out_of_order(found).tolist() == [True]
  assert len(windows.select(found, ~windows.out_of_order(found)).target) == 0
  os.remove(os.path.join(city, "windows_val.csv"))
  assert windows.read_windows(city, "val", read) is None


def test_selected_windows_are_as_they_were():
  rng = np.random.default_rng(0)
  length = np.array([3, 1, 4, 2])
  offset = np.concatenate([[0], np.cumsum(length)])
  time = np.concatenate([np.sort(rng.integers(0, 100, n)) for n in length])
  time[4:8] = [9, 5, 20, 30]  # the third is out of order, the last after its target
  found = windows.Windows(np.arange(4), offset, np.arange(10), time, np.arange(4) + 20, np.array([200, 200, 200, 0]))
  wrong = windows.out_of_order(found)
  assert wrong.tolist() == [False, False, True, True]
  kept = windows.select(found, np.array([True, False, True, False]))
  assert kept.offset.tolist() == [0, 3, 7] and kept.poi.tolist() == [0, 1, 2, 4, 5, 6, 7]
  np.testing.assert_array_equal(kept.time, time[kept.poi])
  assert kept.user.tolist() == [0, 2] and kept.target.tolist() == [20, 22] and kept.target_time.tolist() == [200, 200]
