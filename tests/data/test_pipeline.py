"""Prepared data on disk and the batches read from it."""

import os
import pickle

import numpy as np
import pytest

from ega_jax.data import examples, pipeline, records

SEED = 5
COUNTS = {"train": 101, "validation": 10, "test": 7}


@pytest.fixture(scope="module")
def columns():
  rng = np.random.default_rng(0)
  n = sum(COUNTS.values())
  row = np.arange(n, dtype=np.int32)
  return {
    "row": row,
    "fold": examples.fold_of(row, SEED),
    "place": rng.standard_normal((n, 2)).astype(np.float32),
    "candidates": rng.integers(-1, 99, (n, 6)).astype(np.int32),
    "is_ad": rng.random((n, 6)) < 0.5,
    "click": rng.integers(0, 2, (n, 3)).astype(np.int8),
  }


@pytest.fixture
def directory(tmp_path, columns):
  start, splits = 0, {}
  for split, count in COUNTS.items():
    path = str(tmp_path / f"{split}.array_record")
    splits[split] = records.write_records(path, columns, start, start + count)
    start += count
  records.write_schema(str(tmp_path), {"columns": records.layout_of(columns), "splits": splits, "seed": SEED})
  return str(tmp_path)


def _take(dataset, count):
  iterator = iter(dataset)
  return [next(iterator) for _ in range(count)]


def _rows(dataset, count):
  return np.stack([batch["row"] for batch in _take(dataset, count)])


def test_what_was_written_is_read_byte_for_byte(directory, columns):
  for split, (start, end) in {"train": (0, 101), "validation": (101, 111), "test": (111, 118)}.items():
    found = pipeline.read_split(directory, split)
    assert set(found) == set(columns)
    for name, values in columns.items():
      assert found[name].dtype == values.dtype and found[name].tobytes() == values[start:end].tobytes()
  some = pipeline.read_split(directory, "test", columns=["click"], rows=[6, 0, 0])
  np.testing.assert_array_equal(some["click"], columns["click"][[117, 111, 111]])
  assert list(some) == ["click"]


def test_damaged_files_are_refused(directory):
  path = os.path.join(directory, "train.array_record")
  with open(path, "rb") as file:
    good = file.read()

  def written(data):
    with open(path, "wb") as file:
      file.write(data)
    return pipeline.read_split(directory, "train")

  with pytest.raises(ValueError, match=r"train.array_record: \d+ bytes, .*truncated"):
    written(good[: len(good) // 2])
  with pytest.raises(ValueError, match="not the file that was written"):
    written(good + b"more")
  with pytest.raises(ValueError, match="train.array_record"):
    written(b"foreign!" * (len(good) // 8))
  for at in np.random.default_rng(0).choice(np.flatnonzero(np.frombuffer(good, np.uint8)), 5):
    flipped = bytearray(good)
    flipped[at] ^= 0x55
    with pytest.raises(ValueError, match=r"train.array_record: .*damaged"):
      written(bytes(flipped))
  os.remove(path)
  with pytest.raises(ValueError, match="train.array_record: no such file"):
    pipeline.read_split(directory, "train")


def test_foreign_directories_and_schemas_are_refused(tmp_path, directory):
  with pytest.raises(ValueError, match="schema.json: no such file"):
    pipeline.read_split(str(tmp_path / "nowhere"), "train")
  with pytest.raises(ValueError, match="split is 'dev'"):
    pipeline.read_split(directory, "dev")
  path = os.path.join(directory, "schema.json")
  for text, message in (('{"format": "other"}', "'other'"), ('{"form', "truncated"), ("[1]", "list")):
    with open(path, "w", encoding="utf-8") as file:
      file.write(text)
    with pytest.raises(ValueError, match=f"schema.json.*{message}"):
      pipeline.read_split(directory, "train")


def test_only_observed_columns_are_written_and_read(directory, columns, tmp_path):
  leaky = columns | {"true_click_probability": np.zeros(118, np.float32)}
  with pytest.raises(ValueError, match="'true_click_probability' is not an observed column"):
    records.write_records(str(tmp_path / "x.array_record"), leaky, 0, 118)
  with pytest.raises(ValueError, match="not an observed column"):
    pipeline.train_batches(directory, "train", 4, 0, columns=["row", "true_click_probability"])
  with pytest.raises(ValueError, match="no column 'bid'"):
    pipeline.train_batches(directory, "train", 4, 0, columns=["bid"])


def test_an_epoch_holds_every_example_once_and_the_next_another_order(directory):
  rows = _rows(pipeline.train_batches(directory, "train", 10, seed=1, columns=["row"]), 31).ravel()
  first, second, third = rows[:101], rows[101:202], rows[202:303]
  for epoch in (first, second, third):
    np.testing.assert_array_equal(np.sort(epoch), np.arange(101))
  assert (first != second).mean() > 0.9 and (second != third).mean() > 0.9


def test_the_order_is_a_function_of_the_seed(directory):
  rows = [_rows(pipeline.train_batches(directory, "train", 8, seed), 5) for seed in (1, 1, 2)]
  np.testing.assert_array_equal(rows[0], rows[1])
  assert (rows[0] != rows[2]).mean() > 0.8


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_global_batch(directory, processes):
  whole = _rows(pipeline.train_batches(directory, "train", 12, 3), 20)
  shares = [
    _rows(pipeline.train_batches(directory, "train", 12, 3, process_index=i, process_count=processes), 20)
    for i in range(processes)
  ]
  np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole)


def test_folds_keep_their_requests_only(directory, columns):
  kept = np.flatnonzero(np.isin(columns["fold"][:101], [2, 7]))
  rows = _rows(pipeline.train_batches(directory, "train", len(kept), 0, folds=[2, 7]), 2)
  np.testing.assert_array_equal(np.sort(rows, axis=1), np.stack([kept, kept]))
  in_validation = _take(pipeline.train_batches(directory, "validation", 4, 0, folds=range(9)), 3)
  for batch in in_validation:
    np.testing.assert_array_equal(batch["fold"], columns["fold"][batch["row"]])
    assert (batch["fold"] < 9).all()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"batch_size": 10, "process_count": 4}, "batch_size is 10.*4 processes"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"batch_size": 4, "process_index": 2, "process_count": 2}, "process_index is 2"),
    ({"batch_size": 4, "folds": [10]}, r"folds is \[10\]"),
    ({"batch_size": 4, "folds": []}, r"folds is \[\]"),
  ],
)
def test_bad_arguments_are_refused(directory, arguments, message):
  with pytest.raises(ValueError, match=message):
    pipeline.train_batches(directory, "train", seed=0, **arguments)


def test_an_empty_selection_is_refused(directory, columns):
  absent = sorted(set(range(10)) - set(columns["fold"][111:].tolist()))[0]
  with pytest.raises(ValueError, match="empty"):
    pipeline.train_batches(directory, "test", 1, 0, folds=[absent])


def test_iterators_resume_exactly_through_a_checkpoint(directory, tmp_path):
  import grain
  import orbax.checkpoint as ocp

  dataset = lambda: pipeline.train_batches(directory, "train", 16, 9)
  iterator = iter(dataset())
  for _ in range(8):
    next(iterator)
  with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
    manager.save(8, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
    manager.wait_until_finished()
    expected = [next(iterator) for _ in range(5)]
    resumed = iter(dataset())
    manager.restore(8, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(resumed)))
  for batch in expected:
    found = next(resumed)
    assert all(found[name].tobytes() == batch[name].tobytes() for name in batch)


def test_evaluation_reads_in_order_and_marks_its_padding(directory, columns):
  batches = list(pipeline.eval_batches(directory, "validation", 4))
  assert [batch["where"].tolist() for batch in batches] == [[True] * 4, [True] * 4, [True, True, False, False]]
  kept = np.concatenate([batch["candidates"][batch["where"]] for batch in batches])
  np.testing.assert_array_equal(kept, columns["candidates"][101:111])
  shares = [list(pipeline.eval_batches(directory, "test", 8, process_index=i, process_count=2)) for i in (0, 1)]
  rows = [[batch["row"][batch["where"]].tolist() for batch in share] for share in shares]
  assert rows == [[[111, 112, 113, 114]], [[115, 116, 117]]]
  some = list(pipeline.eval_batches(directory, "test", 2, columns=["row"], rows=[5, 1, 3]))
  assert [batch["row"][batch["where"]].tolist() for batch in some] == [[116, 112], [114]]


def test_arrays_are_batched_like_files(directory, columns):
  train = {name: values[:101] for name, values in columns.items()}
  from_files = _take(pipeline.train_batches(directory, "train", 8, 4), 15)
  from_memory = _take(pipeline.from_arrays(train, 8, 4), 15)
  for one, other in zip(from_files, from_memory, strict=True):
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
  with pytest.raises(ValueError, match="one common length"):
    pipeline.from_arrays({"a": np.zeros(3), "b": np.zeros(4)}, 1, 0)


def test_an_open_file_can_be_sent_to_another_process(directory, columns):
  file = pickle.loads(pickle.dumps(records.RecordFile(directory, "train")))
  np.testing.assert_array_equal(file.read([7], ["candidates"])["candidates"][0], columns["candidates"][7])
  with pytest.raises(ValueError, match="rows 101..101 asked for, it has 0..100"):
    file.read([101])
