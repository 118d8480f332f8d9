"""A stage of the recipe that ended anywhere and goes on has the bits of one that was never stopped."""

import shutil

import jax
import numpy as np
import pytest

import tiny_run
from ega_jax.parallel.mesh import make_mesh
from ega_jax.training import loop
from launch import experiment


class Ended(BaseException):
  """As abrupt as an exception can be: the loop handles none of this kind."""


@pytest.mark.parametrize("name", ["policy", "payment"])
def test_a_stage_of_the_recipe_goes_on_to_the_same_bits(name, tmp_path, monkeypatch):
  workdir, finals = tiny_run.trained()
  module = experiment.load(tiny_run.EXPERIMENT)[0]
  stages = module.stages(tiny_run.config(), str(tmp_path))
  last = [stage.name for stage in stages].index(name)
  for stage in stages[:last]:
    shutil.copytree(workdir / stage.name, tmp_path / stage.name)
  options = loop.Options(config=experiment.as_dict(tiny_run.config()), log_every=5, checkpoint_every=2)

  def run():
    return loop.run(stages[: last + 1], tmp_path, make_mesh({"data": 1}), options=options)

  def end_at(count, inner=loop.global_batch):
    calls = []

    def counted(*args):
      calls.append(1)
      if len(calls) == count:
        raise Ended
      return inner(*args)

    return counted

  with monkeypatch.context() as patched:
    patched.setattr(loop, "global_batch", end_at(4))
    with pytest.raises(Ended):
      run()
  assert (tmp_path / name / "steps" / "2").is_dir() and not (tmp_path / name / "final").exists()
  again = run()[name]
  for path, leaf in jax.tree_util.tree_leaves_with_path(finals[name]):
    found = dict(jax.tree_util.tree_leaves_with_path(again))[path]
    np.testing.assert_array_equal(np.asarray(found), np.asarray(leaf), err_msg=jax.tree_util.keystr(path))
  metrics = [(folder / name / "metrics.jsonl").read_text() for folder in (tmp_path, workdir)]
  assert metrics[0] == metrics[1]
