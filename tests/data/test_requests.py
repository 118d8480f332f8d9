"""Requests as JSON lines: what is read back, and every refusal names file, line, field and value."""

import dataclasses
import json

import numpy as np
import pytest

from ega_jax.data import requests as requests_lib

LIMITS = requests_lib.Limits(num_pois=20, num_users=5, creative_poi=np.arange(40) // 2, list_length=3)


def _line(**changes):
  good = {
    "user": 4, "place": [1.5, -2], "hour": 167,
    "history": [
      {"poi": 3, "action": "visit", "hour": 5, "age": 30.5},
      {"poi": 4, "action": "click", "hour": 6, "age": 2, "creative": 9},
    ],
    "successors": [{"poi": 1, "count": 2}],
    "candidates": [{"poi": 7, "is_ad": True, "bid": 1.5, "value_mu": -0.5}, {"poi": 5}, {"poi": 6},
                   {"poi": 8, "is_ad": True, "bid": 0}],
  }  # fmt: skip
  return {name: value for name, value in (good | changes).items() if value is not None}


def _read(tmp_path, *lines):
  path = tmp_path / "asked.jsonl"
  path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
  return requests_lib.read_requests(str(path), LIMITS)


def test_a_line_becomes_columns(tmp_path):
  found = _read(tmp_path, _line(), "", _line(id="b", history=None, candidates=[{"poi": i} for i in range(5)]))
  assert found.ids == [1, "b"]
  columns = found.columns
  np.testing.assert_array_equal(columns["candidates"], [[5, 6, 7, 8, -1], [0, 1, 2, 3, 4]])
  np.testing.assert_array_equal(columns["is_ad"], [[0, 0, 1, 1, 0], [0] * 5])
  np.testing.assert_array_equal(columns["bid"], np.float32([[0, 0, 1.5, 0, 0], [0] * 5]))
  np.testing.assert_array_equal(columns["value_mu"][0], np.float32([0, 0, -0.5, 0, 0]))
  np.testing.assert_array_equal(found.position, [[1, 2, 0, 3, -1], [0, 1, 2, 3, 4]])
  assert columns["history_poi"].shape == (2, requests_lib.HISTORY)
  np.testing.assert_array_equal(columns["history_poi"][0, -3:], [-1, 3, 4])
  np.testing.assert_array_equal(columns["history_creative"][0, -3:], [-1, -1, 9])
  np.testing.assert_array_equal(columns["history_action"][0, -3:], [0, 1, 2])
  np.testing.assert_array_equal(columns["history_age"][0, -3:], np.float32([0, 30.5, 2]))
  assert (columns["history_poi"][1] == -1).all() and (columns["history_action"][1] == 0).all()
  np.testing.assert_array_equal(columns["successor_poi"][0, :2], [1, -1])
  np.testing.assert_array_equal(columns["place"][0], np.float32([1.5, -2]))
  assert columns["user"].tolist() == [4, 4] and columns["hour"].tolist() == [167, 167]


def test_of_a_long_history_the_newest_events_stay(tmp_path):
  length = requests_lib.HISTORY
  events = [{"poi": i % 20, "action": "visit", "hour": 0, "age": 1000 - i} for i in range(length + 5)]
  found = _read(tmp_path, _line(history=events)).columns
  np.testing.assert_array_equal(found["history_age"][0], 1000 - np.arange(5, length + 5))


def test_written_lines_are_read_back_to_the_same(tmp_path):
  found = _read(tmp_path, _line(), _line(history=[], successors=[], place=[0.1, 1e-7]))
  lines = [requests_lib.request_line(found.columns, row) for row in range(2)]
  again = _read(tmp_path, *lines).columns
  for name, values in found.columns.items():
    np.testing.assert_array_equal(again[name], values, err_msg=name)
    assert again[name].dtype == values.dtype


def _with(index, **changes):
  candidates = _line()["candidates"]
  candidates[index] = candidates[index] | changes
  return {"candidates": candidates}


BAD = [
  (_with(0, bid=float("nan")), r"candidates\[0\]\.bid is NaN"),
  (_with(0, bid=float("inf")), r"candidates\[0\]\.bid is Infinity"),
  (_with(0, bid=-1.5), r"candidates\[0\]\.bid is -1\.5; allowed: a finite number, at least 0"),
  (_with(0, bid=10**400), r"candidates\[0\]\.bid"),
  (_with(0, bid="1"), r"candidates\[0\]\.bid is \"1\""),
  (_with(0, bid=True), r"candidates\[0\]\.bid is true"),
  (_with(1, bid=1.0), r"candidates\[1\]\.bid is 1\.0; allowed: none for an organic item"),
  (_with(0, value_mu=float("inf")), r"candidates\[0\]\.value_mu"),
  (_with(0, is_ad=1), r"candidates\[0\]\.is_ad is 1; allowed: true or false"),
  (_with(1, is_ad=True), r"candidates\[1\]\.bid is null"),
  (_with(1, poi=20), r"candidates\[1\]\.poi is 20; allowed: a whole number, 0\.\.19"),
  (_with(1, poi=-1), r"candidates\[1\]\.poi is -1"),
  (_with(1, poi=1.0), r"candidates\[1\]\.poi is 1\.0"),
  (_with(2, poi=5), r"candidates\[2\]\.poi is 5; allowed: every POI once; it is candidates\[1\] already"),
  (_with(2, price=5), r"candidates\[2\]\.price is 5; allowed: no such field; known: bid, is_ad, poi, value_mu"),
  ({"candidates": []}, r"candidates is \"0 entries\"; allowed: at least 3"),
  ({"candidates": [{"poi": 1}, {"poi": 2}]}, r"candidates is \"2 entries\"; allowed: at least 3"),
  ({"candidates": {"poi": 1}}, r"candidates is .*allowed: a list"),
  ({"candidates": [1, 2, 3]}, r"candidates\[0\] is 1; allowed: an object"),
  ({"user": 5}, r"user is 5; allowed: a whole number, 0\.\.4"),
  ({"user": None}, r"request\.user is null"),
  ({"place": [1.0]}, r"place is \[1\.0\]; allowed: two numbers"),
  ({"place": [1.0, float("nan")]}, r"place\[1\] is NaN"),
  ({"place": [0, -1e30]}, r"place\[1\] is -1e\+30; allowed: a finite number, at least -1e\+06, at most 1e\+06"),
  ({"hour": 168}, r"hour is 168; allowed: a whole number, 0\.\.167"),
  ({"weather": "dry"}, r"request\.weather is \"dry\"; allowed: no such field"),
  ({"id": [1]}, r"id is \[1\]"),
  ({"successors": [{"poi": 1, "count": -1}]}, r"successors\[0\]\.count is -1"),
  ({"successors": [{"poi": 1, "count": 1}] * 33}, r"successors is \"33 entries\"; allowed: at most 32"),
  ({"history": [{"poi": 3, "action": "buy", "hour": 5, "age": 1}]}, r"history\[0\]\.action is \"buy\"; allowed: visit"),
  ({"history": [{"poi": 3, "action": "visit", "hour": 5, "age": -1}]}, r"history\[0\]\.age is -1"),
  ({"history": [{"poi": 3, "action": "visit", "hour": 5, "age": age} for age in (1, 2)]},
   r"history\[1\]\.age is 2\.0; allowed: at most 1"),
  ({"history": [{"poi": 3, "action": "click", "hour": 5, "age": 1, "creative": 8}]}, "creative of POI 3; .* of POI 4"),
  ({"history": [{"poi": 3, "action": "visit", "hour": 5, "age": 1, "creative": 6}]}, "none for a visit"),
]  # fmt: skip


@pytest.mark.parametrize("changes,message", BAD)
def test_refusals_name_file_line_field_and_value(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message) as error:
    _read(tmp_path, _line(), _line(**changes))
  assert f"{tmp_path / 'asked.jsonl'}, line 2: " in str(error.value)


def test_bids_and_values_beyond_what_a_model_holds_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(f"{__name__}.LIMITS", dataclasses.replace(LIMITS, largest_bid=1e10, value_mu=(-9.5, 9.5)))
  _read(tmp_path, _line(**_with(0, bid=1e10, value_mu=9.5)))
  for change, message in (
    ({"bid": 1.1e10}, r"line 1: candidates\[0\].bid is 1.*; allowed: a finite number, at least 0, at most 1e\+10"),
    ({"value_mu": 200}, r"candidates\[0\].value_mu is 200; allowed: a finite number, at least -9.5, at most 9.5"),
    ({"value_mu": -200}, r"candidates\[0\].value_mu is -200"),
  ):
    with pytest.raises(ValueError, match=message):
      _read(tmp_path, _line(**_with(0, **change)))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"user": ' + "9" * 5000 + "}"])
def test_what_json_cannot_hold_names_file_and_line(tmp_path, text):
  with pytest.raises(ValueError, match="asked.jsonl, line 2: not JSON, or truncated"):
    _read(tmp_path, _line(), text)


def test_a_byte_order_mark_is_no_part_of_a_request(tmp_path):
  assert _read(tmp_path, "\ufeff" + json.dumps(_line(id="a"))).ids == ["a"]


def test_truncated_empty_and_foreign_files(tmp_path):
  with pytest.raises(ValueError, match="asked.jsonl, line 2: not JSON, or truncated"):
    _read(tmp_path, _line(), json.dumps(_line())[:-9])
  with pytest.raises(ValueError, match="line 1: request is 3; allowed: an object"):
    _read(tmp_path, "3")
  with pytest.raises(ValueError, match="asked.jsonl: no requests"):
    _read(tmp_path, "", "  ")
  path = tmp_path / "binary.jsonl"
  path.write_bytes(b"\xff\xfe{}")
  with pytest.raises(ValueError, match="binary.jsonl: not UTF-8"):
    requests_lib.read_requests(str(path), LIMITS)
