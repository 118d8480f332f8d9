"""launch.finished: parameters on disk are those of the config's modules, or are refused."""

import jax
import numpy as np
import pytest
from test_train import TOY

from ega_jax.training import checkpoint
from ega_jax.training.checkpoint import final_shapes, load_final, save_final, write_json
from ega_jax.training.structure import describe
from launch import experiment, finished


def _stages(**model):
  module, config = experiment.load(TOY)
  with config.unlocked():
    config.model.update(model)
  return module.stages(config, None)


def _write(workdir, stages, extra=None):
  """Writes the shapes of complete stages, no parameters."""
  for stage, abstract, names in experiment.abstract_stages(stages):
    (workdir / stage.name / "final").mkdir(parents=True, exist_ok=True)
    write_json(workdir / stage.name / "final.json", describe(abstract.params | (extra or {}), names))


def test_parameters_of_another_config_are_named_with_both_shapes(tmp_path):
  _write(tmp_path, _stages())
  finished.check_shapes(tmp_path, _stages(), ["regress", "head"])
  for needed in ("regress", "head"):
    expected = rf"{needed}: regressor/bias is float32\[16\], and float32\[24\] by .*config.json; allowed: the config"
    with pytest.raises(ValueError, match=expected):
      finished.check_shapes(tmp_path, _stages(width=24), [needed])


def test_what_a_finish_adds_is_no_difference_and_a_parameter_that_is_missing_is(tmp_path):
  _write(tmp_path, _stages(), {"found": np.zeros(3, np.float32)})
  finished.check_shapes(tmp_path, _stages(), ["head"])
  fewer = {"regressor": {"hidden": np.zeros((8, 16), np.float32)}}
  _write(tmp_path, _stages(), fewer)
  with pytest.raises(ValueError, match="regress: regressor/bias is absent, and float32"):
    finished.check_shapes(tmp_path, _stages(), ["regress"])


def test_damaged_parameters_name_their_folder(tmp_path):
  params = {"kernel": np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)}
  save_final(tmp_path, params, {})
  np.testing.assert_array_equal(load_final(tmp_path)[0]["kernel"], params["kernel"])
  largest = max((path for path in (tmp_path / "final").rglob("*") if path.is_file()), key=lambda at: at.stat().st_size)
  with open(largest, "r+b") as file:
    file.truncate(2000)
  with pytest.raises(ValueError, match=f"{tmp_path}/final: cannot be read, or is truncated"):
    load_final(tmp_path)
  (tmp_path / "final.json").write_text('{"kind": "dict", "items"')
  with pytest.raises(ValueError, match=f"{tmp_path}/final.json: not the description of a stage, or truncated"):
    final_shapes(tmp_path)


def test_what_the_device_says_is_no_word_on_files():
  with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
    with checkpoint._named("final", "none"):
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
