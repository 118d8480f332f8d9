"""What the reward model is calibrated on: logs that it was not fitted to."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

import tiny_run
from ega_jax.data.examples import fold_of
from ega_jax.data.pipeline import read_split
from ega_jax.data.records import read_schema
from ega_jax.stages import reward
from ega_jax.stages.batches import held_back_folds, main_folds


class Predictor:
  """Predicts of every entry of a list that user's number."""

  def apply(self, variables, request, catalog, items, creatives):
    return {"poi": jnp.broadcast_to(request.user[:, None, None].astype(jnp.float32), items.shape)}


def _found(folds):
  """Returns what calibration sees, absent entries left out: (users, clicks, is_ad), each [n]."""
  models = types.SimpleNamespace(reward=Predictor())
  found = reward.unseen_logits(tiny_run.config(), models, {"reward": {}, "catalog": {}}, folds)
  assert all(part.shape == found[0].shape for part in found)
  return [part[found[3]] for part in found[:3]]


def _expected(folds):
  """Returns the same, request by request, from validation and the training requests of other folds."""
  schema, columns = read_schema(tiny_run.data()), ("user", "shown_item", "click", "is_ad")
  users, clicks, ads = [], [], []
  for split in ("validation", "train"):
    logs, first = read_split(tiny_run.data(), split, columns), schema["splits"][split]["first_row"]
    fold = fold_of(first + np.arange(len(logs["user"])), schema["seed"])
    for n, shown in enumerate(logs["shown_item"]):
      if split == "train" and fold[n] in folds:
        continue
      for k, item in enumerate(shown):
        if item >= 0:
          users, clicks = users + [logs["user"][n]], clicks + [logs["click"][n, k]]
          ads.append(logs["is_ad"][n, item])
  return users, clicks, ads


@pytest.mark.parametrize("which", [main_folds, held_back_folds])
def test_it_is_calibrated_on_validation_and_the_folds_it_was_not_fitted_to(which):
  folds = which(tiny_run.config())
  for found, expected in zip(_found(folds), _expected(folds), strict=True):
    np.testing.assert_array_equal(found, np.asarray(expected, found.dtype))


def test_a_model_of_all_folds_is_calibrated_on_validation():
  folds = tuple(range(10))
  np.testing.assert_array_equal(_found(folds)[0], _expected(folds)[0])


def test_no_more_training_requests_than_it_takes(monkeypatch):
  validation, all_of_them = (len(_expected(folds)[0]) for folds in (range(10), main_folds(tiny_run.config())))
  monkeypatch.setattr(reward, "CALIBRATION", 3)
  extra = len(_found(main_folds(tiny_run.config()))[0]) - validation
  assert 0 < extra <= 3 * tiny_run.config().list_length < all_of_them - validation
