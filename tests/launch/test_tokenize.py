"""launch.tokenize: files written, same seed same codes, continuation, exit codes and messages for bad input."""

import json

import numpy as np
import pytest

from ega_jax.tokenization import InvertedIndex, encode
from launch import tokenize


def _save(path, array):
  np.save(path, array)
  return path


@pytest.fixture(name="embeddings")
def _embeddings(tmp_path):
  draw = np.random.default_rng(0)
  rows = draw.normal(size=(40, 6)).astype(np.float16)
  return _save(tmp_path / "embeddings.npy", rows[draw.integers(0, 40, 90)])


def _run(embeddings, output, *extra):
  arguments = [f"--embeddings={embeddings}", f"--output={output}", "--levels=2", "--codebook_size=4", *extra]
  return tokenize.main(["tokenize", *arguments])


def test_rq_kmeans_writes_ids_codebooks_index_and_metrics(embeddings, tmp_path):
  assert _run(embeddings, tmp_path / "a") == 0
  ids = np.load(tmp_path / "a" / "semantic_ids.npy")
  assert ids.shape == (90, 3) and ids.dtype == np.int32 and len(np.unique(ids, axis=0)) == 90
  codebooks = np.load(tmp_path / "a" / "codebooks.npz")["codebooks"]
  np.testing.assert_array_equal(encode(np.load(embeddings), codebooks), ids[:, :2])
  index = InvertedIndex.load(tmp_path / "a" / "inverted_index.npz")
  assert all(item in index.lookup(ids[item, :2]) for item in range(90))
  report = json.loads((tmp_path / "a" / "metrics.json").read_text())
  assert report["items"] == 90 and report["distinct_embeddings"] <= 40 and len(report["code_usage"]) == 2
  assert 0 < report["reconstruction_error"] < 1


def test_same_seed_same_ids_other_seed_other_ids_and_buckets_without_suffix(embeddings, tmp_path):
  for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
    assert _run(embeddings, tmp_path / name, f"--seed={seed}", "--nosuffix") == 0
  first, second, other = (np.load(tmp_path / name / "semantic_ids.npy") for name in "abc")
  assert first.shape == (90, 2)
  np.testing.assert_array_equal(first, second)
  assert (first != other).any()


def test_rq_vae_trains_in_stages_and_a_finished_run_is_only_read(embeddings, tmp_path, capfd):
  extra = ["--method=rq_vae", "--num_steps=8", "--batch_size=16", "--latent=4"]
  assert _run(embeddings, tmp_path / "a", *extra) == 0
  ids = np.load(tmp_path / "a" / "semantic_ids.npy")
  assert ids.shape == (90, 3) and len(np.unique(ids, axis=0)) == 90
  stored = np.load(tmp_path / "a" / "codebooks.npz")
  assert stored["codebooks"].shape == (2, 4, 4) and "encoder/layer_0/kernel" in stored
  assert _run(embeddings, tmp_path / "a", *extra) == 0
  np.testing.assert_array_equal(np.load(tmp_path / "a" / "semantic_ids.npy"), ids)
  capfd.readouterr()
  assert _run(embeddings, tmp_path / "a", *extra, "--learning_rate=0.1") == 2
  assert "learning_rate" in capfd.readouterr().err


BAD_FLAGS = {
  "--levels=0": "--levels: 0",
  "--codebook_size=91": "--codebook_size: 91 is not allowed for 90 items",
  "--codebook_size=0": "--codebook_size: 0",
  "--method=other": "expected one of rq_kmeans, rq_vae",
  "--seed=-1": "--seed: -1",
  "--num_steps=0": "--num_steps: 0",
  "--learning_rate=nan": "--learning_rate: nan",
  "--suffix_vocabulary=1": "the suffix vocabulary has 1",
  "--levels=two": "levels",
  "--colour=red": "colour",
  "extra": "arguments ['extra'] are not understood",
  "--embeddings=": "--embeddings: required",
  "--output=": "--output: required",
}


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_bad_flags_exit_with_2_and_are_named(embeddings, tmp_path, capsys, flag):
  assert _run(embeddings, tmp_path / "out", flag) == 2
  assert BAD_FLAGS[flag] in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def _truncated(path):
  _save(path, np.zeros((9, 9)))
  path.write_bytes(path.read_bytes()[:-100])
  return path


def _text(path):
  path.write_text("not a matrix")
  return path


BAD_FILES = {
  "absent": (lambda path: path, "does not exist"),
  "empty": (lambda path: path.write_bytes(b"") and path or path, "truncated or not a .npy matrix"),
  "truncated": (_truncated, "truncated or not a .npy matrix"),
  "text": (_text, "truncated or not a .npy matrix"),
  "objects": (lambda path: _save(path, np.array([{}], object)), "truncated or not a .npy matrix"),
  "rank": (lambda path: _save(path, np.zeros((4, 4, 4))), "shape (4, 4, 4)"),
  "nan": (lambda path: _save(path, np.array([[0.0], [np.nan]])), "1 rows hold NaN or infinite values (first: [1])"),
  "strings": (lambda path: _save(path, np.array([["a"]])), "dtype"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_exit_with_2_and_are_named(tmp_path, capsys, kind):
  make, message = BAD_FILES[kind]
  path = make(tmp_path / "bad.npy")
  assert _run(path, tmp_path / "out") == 2
  error = capsys.readouterr().err
  assert message in error and "bad.npy" in error
  assert not (tmp_path / "out").exists()


def test_help_lists_every_flag(capsys):
  assert tokenize.main(["tokenize", "--help"]) == 0
  shown = capsys.readouterr().out
  assert all(f"--{name}" in shown or f"--[no]{name}" in shown for name in tokenize.FLAGS)
