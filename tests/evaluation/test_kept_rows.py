"""Rows of an evaluation that several processes share out."""

import multiprocessing
import time

import pytest

from ega_jax.evaluation.kept_rows import Rows

MADE_BY = {"commit": "1", "config": {"seed": 0}}


def _make(folder, names, pause, queue):
  with Rows(folder, MADE_BY, names, target=0.5) as rows:
    for name in names:
      with rows.claimed(name) as mine:
        if mine:
          time.sleep(pause)
          rows.add(name, {"by": pause})
          queue.put(name)


def test_processes_make_every_row_once_and_lose_none(tmp_path):
  context = multiprocessing.get_context("spawn")
  names, queue = [f"row{i}" for i in range(8)], context.Queue()
  workers = [context.Process(target=_make, args=(str(tmp_path / "rows"), names, pause, queue)) for pause in (0.2, 0.21)]
  for worker in workers:
    worker.start()
  made = [queue.get(timeout=60) for _ in names]
  for worker in workers:
    worker.join()
  assert sorted(made) == names and queue.empty()
  with Rows(str(tmp_path / "rows"), MADE_BY, names) as rows:
    assert list(rows.figures["systems"]) == names and rows.figures["target"] == 0.5
    assert {one["by"] for one in rows.figures["systems"].values()} == {0.2, 0.21}


def _add(folder, prefix, count):
  with Rows(folder, MADE_BY, []) as rows:
    for i in range(count):
      rows.add(f"{prefix}{i}", {"large": list(range(2000))})


def test_rows_added_at_the_same_time_are_all_kept(tmp_path):
  context, folder = multiprocessing.get_context("spawn"), str(tmp_path / "rows")
  workers = [context.Process(target=_add, args=(folder, prefix, 40)) for prefix in "abc"]
  for worker in workers:
    worker.start()
  for worker in workers:
    worker.join()
  with Rows(folder, MADE_BY, []) as rows:
    assert set(rows.figures["systems"]) == {f"{prefix}{i}" for prefix in "abc" for i in range(40)}


def test_who_came_second_keeps_the_folder_when_the_first_has_left(tmp_path):
  other = Rows(tmp_path / "rows", {"commit": "2"}, [])
  with Rows(tmp_path / "rows", MADE_BY, []) as first:
    second = Rows(tmp_path / "rows", MADE_BY, []).__enter__()
    first.add("a", {})
  with pytest.raises(ValueError, match="is being filled by a process with another commit"):
    other.__enter__()
  assert "a" in second.figures["systems"]
  second.__exit__()
  with other:
    assert (tmp_path / "rows.1").is_dir()


def test_a_row_is_made_by_one_at_a_time_and_kept_unless_asked_for_anew(tmp_path):
  with Rows(tmp_path / "rows", MADE_BY, ["a"]) as one, Rows(tmp_path / "rows", MADE_BY, ["a"]) as two:
    with one.claimed("a") as mine, two.claimed("a", anew=True) as too:
      assert mine and not too
    one.add("a", {})
    with two.claimed("a") as mine:
      assert not mine
    with two.claimed("a", anew=True) as mine:
      assert mine


def test_a_folder_in_use_is_not_set_aside(tmp_path):
  uncommitted = {"commit": "1+uncommitted"}
  with Rows(tmp_path / "rows", uncommitted, []) as first:
    first.add("a", {})
    with Rows(tmp_path / "rows", uncommitted, []) as second:
      assert "a" in second.figures["systems"]
    with pytest.raises(ValueError, match="is being filled by a process with another commit"):
      Rows(tmp_path / "rows", {"commit": "2"}, []).__enter__()
    assert "a" in first.figures["systems"]
  with Rows(tmp_path / "rows", {"commit": "2"}, []) as other:
    assert not other.figures["systems"]
  assert (tmp_path / "rows.1" / "figures.json").is_file()
