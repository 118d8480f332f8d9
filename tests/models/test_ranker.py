"""The ranker is blind to the list, serves all candidates as it trains on shown ones, and has finite scores."""

import dataclasses

import jax
import numpy as np
import pytest

import oracles_models as oracle
from ega_jax.models import ranker

LENGTH = 4


@pytest.fixture(scope="module")
def setting():
  rng = np.random.default_rng(0)
  catalog = oracle.catalog(rng)
  rows = oracle.request(rng, catalog)
  config = ranker.RankerConfig(num_pois=30, num_users=7, num_creatives=90, width=16, num_heads=2, mlp_width=24,
                               max_positions=LENGTH, history="hstu", num_layers=1, history_items=9)
  module = ranker.Ranker(config)
  items = np.stack([rng.permutation(9)[:LENGTH] for _ in range(5)]).astype(np.int32)
  creatives = catalog.poi_creatives[rows.candidates[np.arange(5)[:, None], items]][..., 0]
  params = oracle.random_params(
    rng, jax.eval_shape(module.init, jax.random.key(0), rows, catalog, items, creatives)["params"])

  def method(name=None):
    return jax.jit(lambda rows, *args: module.apply({"params": params}, rows, catalog, *args, method=name))

  return dict(rows=rows, items=items, creatives=creatives, train=method(), method=method, catalog=catalog)


def test_an_item_does_not_see_its_neighbours(setting):
  base = setting["train"](setting["rows"], setting["items"], setting["creatives"])
  other, creatives = setting["items"].copy(), setting["creatives"].copy()
  other[:, 1:], creatives[:, 1:] = (other[:, 1:] + 1) % 9, (creatives[:, 1:] + 1) % 90
  changed = setting["train"](setting["rows"], other, creatives)
  for name, value in base.items():
    np.testing.assert_allclose(changed[name][:, 0], value[:, 0], atol=1e-5)
    assert np.abs(changed[name][:, 1:] - value[:, 1:]).max() > 1e-3


def test_serving_equals_training_in_the_first_slot_without_a_creative(setting):
  rows = setting["rows"]
  served = np.asarray(setting["method"]("click_logits")(rows))
  assert served.shape == rows.candidates.shape and (served[rows.candidates < 0] == 0).all()
  trained = setting["train"](rows, setting["items"], np.full_like(setting["creatives"], -1))["poi"]
  first = np.take_along_axis(served, setting["items"], axis=1)[:, 0]
  np.testing.assert_allclose(trained[:, 0], first, atol=1e-4)
  some = setting["method"]("click_logits")(rows, setting["items"])
  np.testing.assert_allclose(some, np.take_along_axis(served, setting["items"], axis=1), atol=1e-4)


def test_creatives_and_recall_score_everything(setting):
  rows, catalog = setting["rows"], setting["catalog"]
  creatives = catalog.poi_creatives[rows.candidates]
  scores = np.asarray(setting["method"]("creative_logits")(rows, creatives))
  np.testing.assert_array_equal(np.isneginf(scores), creatives < 0)
  assert np.std(scores[creatives >= 0]) > 1e-3
  recall = setting["method"]("recall_logits")(rows)
  trained = setting["train"](rows, setting["items"], setting["creatives"])["recall"]
  np.testing.assert_allclose(trained, np.take_along_axis(np.asarray(recall), setting["items"], 1), atol=1e-4)


def test_bids_are_not_read(setting):
  rows = setting["rows"]
  other = dataclasses.replace(rows, bid=rows.bid * 3 + 1, value_mu=rows.value_mu + 2)
  for name in ("click_logits", "recall_logits"):
    np.testing.assert_array_equal(setting["method"](name)(rows), setting["method"](name)(other))


def test_unknown_history_encoder_is_refused():
  with pytest.raises(ValueError, match="history is 'rnn'.*'target', 'hstu'"):
    ranker.RankerConfig(num_pois=1, num_users=1, num_creatives=1, history="rnn")
