"""The reward model sees the list, does shared work once, ignores bids and absent entries, and can be calibrated."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import oracles_models as oracle
from ega_jax.models import calibration, reward
from ega_jax.models.pairs import LearnedPairs

LENGTH = 4


@pytest.fixture(scope="module")
def setting():
  rng = np.random.default_rng(0)
  catalog = oracle.catalog(rng)
  rows = oracle.request(rng, catalog)
  config = reward.RewardConfig(num_pois=30, num_users=7, num_creatives=90, width=16, num_heads=2, mlp_width=32,
                               max_positions=LENGTH, history_items=9, num_layers=1)
  module = reward.RewardModel(config)
  items = np.stack([[rng.permutation(9)[:LENGTH] for _ in range(3)] for _ in range(5)]).astype(np.int32)
  items[2, 1, -1] = -1
  pois = np.where(items >= 0, rows.candidates[np.arange(5)[:, None, None], np.maximum(items, 0)], 0)
  creatives = catalog.poi_creatives[pois, rng.integers(0, 2, items.shape)]
  boxed = jax.eval_shape(module.init, jax.random.key(0), rows, catalog, items, creatives)["params"]
  params = oracle.random_params(rng, boxed)

  @jax.jit
  def apply(rows, items, creatives):
    return module.apply({"params": params}, rows, catalog, items, creatives)

  return dict(module=module, params=params, rows=rows, items=items, creatives=creatives, apply=apply, boxed=boxed,
              catalog=catalog)


def test_lists_together_equal_one_list_at_a_time(setting):
  # Twelve entries of 11 candidates embed all candidates once; four entries embed themselves.
  together = setting["apply"](setting["rows"], setting["items"], setting["creatives"])
  for u in range(3):
    one = setting["apply"](setting["rows"], setting["items"][:, u : u + 1], setting["creatives"][:, u : u + 1])
    for name in reward.HEADS:
      np.testing.assert_allclose(one[name][:, 0], together[name][:, u], atol=1e-4, rtol=1e-4)
      assert np.std(together[name]) > 1e-2
      assert (np.asarray(together[name])[setting["items"] < 0] == 0).all()


def test_order_and_neighbours_matter(setting):
  rows, items, creatives = setting["rows"], setting["items"][:, :1], setting["creatives"][:, :1]
  base = setting["apply"](rows, items, creatives)["poi"]
  back = setting["apply"](rows, items[..., ::-1], creatives[..., ::-1])["poi"]
  assert np.abs(base - back[..., ::-1]).max() > 1e-2
  other = items.copy()
  other[..., 0] = 8 + (items[..., 0] == 8)
  changed = setting["apply"](rows, other, creatives)["poi"]
  assert np.abs(changed[..., 1:] - base[..., 1:]).max() > 1e-2


def test_an_absent_tail_equals_a_shorter_list(setting):
  items = setting["items"].copy()
  items[..., -1] = -1
  long = setting["apply"](setting["rows"], items, setting["creatives"])["poi"]
  short = setting["apply"](setting["rows"], items[..., :-1], setting["creatives"][..., :-1])["poi"]
  np.testing.assert_allclose(long[..., :-1], short, atol=1e-4, rtol=1e-4)


def test_bids_are_not_read_and_creatives_are(setting):
  rows, items, creatives = setting["rows"], setting["items"], setting["creatives"]
  base = setting["apply"](rows, items, creatives)
  other = dataclasses.replace(rows, bid=rows.bid * 3 + 1, value_mu=rows.value_mu + 2)
  priced = setting["apply"](other, items, creatives)
  np.testing.assert_array_equal(base["poi"], priced["poi"])
  assert np.abs(setting["apply"](rows, items, creatives + 1)["creative"] - base["creative"]).max() > 1e-2


def test_names_and_gradients_of_every_parameter(setting):
  boxed = jax.tree.leaves(setting["boxed"], is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
  assert all(isinstance(leaf, nn.LogicallyPartitioned) and len(leaf.names) == leaf.value.ndim for leaf in boxed)

  def total(params):
    out = setting["module"].apply(
      {"params": params}, setting["rows"], setting["catalog"], setting["items"], setting["creatives"])
    return sum(jnp.sum(jnp.sin(x)) for x in out.values())

  for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total))(setting["params"])):
    assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


def _miscalibrated(rng, n=6000):
  is_ad = rng.random((n, LENGTH)) < 0.4
  truth = rng.normal(-2, 1, (n, LENGTH))
  clicks = rng.random(truth.shape) < 1 / (1 + np.exp(-truth))
  logits = 1.7 * (truth + np.array([0.5, 0, -0.5, 0.3]) + 0.4 * is_ad)
  return logits, clicks, is_ad


def _observed_over_expected(leaves, logits, clicks, is_ad):
  p = nn.sigmoid(calibration.apply_calibration(leaves, logits, is_ad, np.ones(logits.shape, bool)))
  return np.concatenate([[p.sum() / clicks.sum()], p.sum(0) / clicks.sum(0)])


def test_calibration_meets_the_bar_on_other_data():
  rng = np.random.default_rng(0)
  fitted, held = _miscalibrated(rng), _miscalibrated(rng)
  identity = {"scale": np.ones(1, np.float32), "bias": np.zeros((2, LENGTH), np.float32)}
  leaves = calibration.fit_calibration(*fitted)
  before, after = _observed_over_expected(identity, *held), _observed_over_expected(leaves, *held)
  assert (np.abs(before - 1) > 0.1).any()
  assert 0.95 <= after[0] <= 1.05 and (np.abs(after[1:] - 1) < 0.1).all()
  np.testing.assert_allclose(leaves["scale"], 1 / 1.7, atol=0.04)


def test_calibration_has_no_preference_for_a_slot_that_clicks_do_not_support():
  rng = np.random.default_rng(3)
  truth = rng.normal(-2.5, 1, (6000, 10))
  clicks, is_ad = rng.random(truth.shape) < 1 / (1 + np.exp(-truth)), rng.random(truth.shape) < 0.3
  bias = calibration.fit_calibration(truth - 0.2, clicks, is_ad)["bias"]
  np.testing.assert_allclose(bias, 0.2, atol=0.1)
  assert np.ptp(bias, axis=1).max() < 0.08  # free biases would differ by some .3
  shifted = rng.random(truth.shape) < 1 / (1 + np.exp(-truth - np.linspace(-0.5, 0.5, 10)))
  bias = calibration.fit_calibration(truth, shifted, is_ad)["bias"]
  np.testing.assert_allclose(bias, np.tile(np.linspace(-0.5, 0.5, 10), (2, 1)), atol=0.15)


def test_calibration_without_data_is_the_identity_and_refuses_bad_input():
  logits = np.zeros((2, LENGTH))
  leaves = calibration.fit_calibration(logits, logits, logits, where=np.zeros(logits.shape))
  np.testing.assert_allclose(leaves["scale"], 1)
  np.testing.assert_allclose(leaves["bias"], 0)
  with pytest.raises(ValueError, match="not finite"):
    calibration.fit_calibration(logits + np.nan, logits, logits)
  with pytest.raises(ValueError, match="shapes"):
    calibration.fit_calibration(logits[:1], logits, logits)


def test_it_learns_that_neighbours_of_the_same_category_hurt():
  rng = np.random.default_rng(1)
  catalog = oracle.catalog(rng, categories=2)
  rows = oracle.request(rng, catalog, batch=64)
  config = reward.RewardConfig(num_pois=30, num_users=7, num_creatives=90, width=16, num_heads=2, mlp_width=16,
                               num_layers=1, max_positions=LENGTH, dropout=0.0)
  module = reward.RewardModel(config)
  items = np.stack([rng.permutation(9)[:LENGTH] for _ in range(64)])[:, None].astype(np.int32)
  pois = rows.candidates[np.arange(64)[:, None, None], items]
  category = catalog.poi_category[pois]
  crowd = (category[..., 1:] == category[..., :-1]).astype(np.float32)
  labels = np.concatenate([np.zeros_like(crowd[..., :1]), crowd], axis=-1)
  optimizer = optax.adam(1e-2)

  @jax.jit
  def train(key):
    params = nn.unbox(module.init(key, rows, catalog, items, pois)["params"])

    def loss(params):
      logits = module.apply({"params": params}, rows, catalog, items, pois)["poi"]
      return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

    def step(carry, _):
      params, state = carry
      value, gradient = jax.value_and_grad(loss)(params)
      updates, state = optimizer.update(gradient, state)
      return (optax.apply_updates(params, updates), state), value

    return jax.lax.scan(step, (params, optimizer.init(params)), length=60)[1]

  losses = train(jax.random.key(0))
  assert losses[-1] < 0.15 < losses[0]


def test_what_is_said_of_an_item_alone_does_not_depend_on_its_list(setting):
  rows, items, creatives = setting["rows"], setting["items"][:, :1], setting["creatives"][:, :1]
  base = setting["apply"](rows, items, creatives)
  other, their = items.copy(), creatives.copy()
  other[..., 1:], their[..., 1:] = (other[..., 1:] + 1) % 9, (their[..., 1:] + 1) % 90
  changed = setting["apply"](rows, other, their)
  for name in ("poi_alone", "creative_alone"):
    np.testing.assert_allclose(changed[name][..., 0], base[name][..., 0], atol=1e-5)
    assert np.abs(changed[name][..., 1:] - base[name][..., 1:]).max() > 1e-3
  assert np.abs(changed["poi"][..., 0] - base["poi"][..., 0]).max() > 1e-3
  served = jax.jit(lambda: setting["module"].apply(
    {"params": setting["params"]}, rows, setting["catalog"], items, creatives, alone=True
  ))()  # every entry as if it stood first  # fmt: skip
  assert set(served) == {"poi_alone", "creative_alone"}
  np.testing.assert_allclose(served["poi_alone"][..., 0], base["poi_alone"][..., 0], atol=1e-5)
  np.testing.assert_allclose(
    served["poi_alone"][..., 1], setting["apply"](rows, items[..., 1:], creatives[..., 1:])["poi_alone"][..., 0],
    atol=1e-5,
  )  # fmt: skip


def test_the_prediction_is_the_mean_of_members_that_differ(setting):
  config = dataclasses.replace(setting["module"].config, members=3, calibrated=False)
  module, rows, args = reward.RewardModel(config), setting["rows"], (setting["items"], setting["creatives"])
  boxed = jax.eval_shape(module.init, jax.random.key(0), rows, setting["catalog"], *args)["params"]
  params = oracle.random_params(np.random.default_rng(0), boxed)
  apply = lambda module, params, **how: module.apply({"params": params}, rows, setting["catalog"], *args, **how)
  each, together = jax.jit(lambda params: (apply(module, params, each=True), apply(module, params)))(params)
  alone = jax.jit(functools.partial(apply, reward.RewardModel(dataclasses.replace(config, members=1))))
  for name in together:
    np.testing.assert_allclose(together[name], each[name].mean(0), atol=1e-5)
  for member in range(3):
    own = jax.tree.map(lambda leaf, member=member: leaf[member : member + 1], params)
    np.testing.assert_allclose(alone(own)["poi"], each["poi"][member], atol=1e-5)
  assert np.abs(each["poi"][0] - each["poi"][1]).max() > 1e-2


def test_complements_are_told_from_a_table_of_parent_categories(setting):
  catalog, pois = setting["catalog"], np.array([[[0, 1, 2, -1]]], np.int32)
  config = setting["module"].config
  module = LearnedPairs(config.num_parents, config.pair_kinds, config.pair_rank)
  params = nn.meta.unbox(module.init(jax.random.key(0), catalog, pois)["params"])
  pairs = np.asarray(module.apply({"params": params}, catalog, pois))
  kinds = config.pair_kinds
  assert pairs.shape == (1, 1, 4, 4, 2 * kinds) and (pairs[..., 3, :, :] == 0).all() and (pairs[..., 3, :] == 0).all()
  parent = np.asarray(catalog.poi_parent)
  np.testing.assert_allclose(pairs[0, 0, 0, 1, :kinds], params["parents"][parent[0], parent[1]], atol=1e-6)
  assert (pairs[..., kinds:] >= 0).all() and (np.diagonal(pairs, axis1=2, axis2=3) == 0).all()
