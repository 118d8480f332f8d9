"""The benchmark binary: its table, its timing, and what it says where a peer is missing."""

import importlib.util
import subprocess
import sys
import time

import pytest

from launch import benchmark
from launch.benchmarks import timing


def test_the_ratio_is_that_of_calls_in_turn():
  found = timing.in_turn(lambda: time.sleep(0.01), lambda: time.sleep(0.03), 0.3)
  assert 1.5 < found["ratio"] < 4 and found["ratio_low"] <= found["ratio"] <= found["ratio_high"]
  assert found["ours_ms"] >= 10 and found["peer_ms"] >= 30 and found["turns"] >= 5


def test_peak_is_a_rate_of_this_machine():
  assert 1e8 < timing.peak_flops(256, 3) < 1e15


def test_the_table_names_ratio_and_peak():
  row = {"name": "a step", "peer": "X 1", "ours_ms": 2.0, "peer_ms": 5.0, "ratio": 2.5, "ratio_low": 2.4,
         "ratio_high": 2.6, "share_of_peak": 0.5}  # fmt: skip
  text = benchmark.table({"suite": "auction", "machine": "a machine", "rows": [row]})
  assert "a step: ours 2.00 ms, X 1 5.00 ms: 2.50x [2.40, 2.60]; 50% of the peak" in text


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="the peer is installed")
def test_a_peer_that_is_missing_is_bad_input():
  run = subprocess.run([sys.executable, "-m", "launch.benchmark", "--suite=auction"], capture_output=True, text=True)
  assert run.returncode == 2 and "pip install '.[benchmark]'" in run.stderr


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is no part of the project")
def test_both_take_the_same_step():
  from launch.benchmarks import auction

  assert auction.run(0.1)["rows"][0]["ratio"] > 0  # raises if the two losses differ
