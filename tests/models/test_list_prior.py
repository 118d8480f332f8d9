"""The list prior's module: nothing before training, learned from there, and relations point from shown to next."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import oracles_models as oracle
from ega_jax.decoding.prior import ListPrior, prior_after
from ega_jax.models import pairs
from ega_jax.models.list_prior import ListContextPrior

LENGTH = 4


@pytest.fixture(scope="module")
def setting():
  rng = np.random.default_rng(0)
  catalog = oracle.catalog(rng)
  rows = oracle.request(rng, catalog)
  module = ListContextPrior(LENGTH)
  params = nn.unbox(jax.jit(module.init)(jax.random.key(0), catalog, rows.candidates)["params"])
  known = jax.tree.map(jnp.asarray, catalog)
  run = jax.jit(lambda params: module.apply({"params": params}, known, rows.candidates))
  base = jnp.asarray(rng.normal(size=rows.candidates.shape), jnp.float32)
  items = np.stack([[rng.permutation(9)[:LENGTH] for _ in range(3)] for _ in range(len(base))])
  items[:, 1, 2:], items[:, 2, 1:] = -1, -1
  after = lambda params: prior_after(ListPrior(base, *run(params), is_ad=rows.is_ad), items)
  return dict(catalog=catalog, rows=rows, params=params, run=run, base=base, after=after)


def test_before_training_the_prior_is_the_base_and_decay_falls_from_one(setting):
  relation, decay, ad_slot = setting["run"](setting["params"])
  size = setting["rows"].candidates.shape[1]
  assert relation.shape == (5, size, size) and relation.dtype == jnp.float32
  assert (relation == 0).all() and ad_slot.shape == (LENGTH,) and (ad_slot == 0).all()
  np.testing.assert_allclose(decay, [1, 0.8, 0.64, 0.512], rtol=1e-5)
  found = setting["after"](setting["params"])
  np.testing.assert_array_equal(found, np.broadcast_to(setting["base"][:, None], found.shape))


def test_what_starts_at_zero_has_a_gradient(setting):
  rng = np.random.default_rng(1)
  weight = jnp.asarray(rng.normal(size=(5, 3, setting["base"].shape[1])), jnp.float32)
  loss = lambda params: jnp.sum(weight * jax.nn.softmax(setting["after"](params), -1))
  gradient = jax.grad(loss)(setting["params"])
  assert (np.abs(gradient["mix"]["kernel"]) > 1e-6).all() and (np.abs(gradient["ad_slot"][1:3]) > 1e-6).all()
  moved = jax.tree.map(lambda x, g: x - 0.5 * g, setting["params"], gradient)
  assert loss(moved) < loss(setting["params"]) and np.abs(setting["after"](moved) - setting["base"][:, None]).max() > 0
  later = jax.grad(loss)(moved)  # what the mixture multiplies learns once it is not 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(later):
    assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def _only(setting, kind):
  """The relation that a mixture of one kind of pair gives."""
  params = dict(setting["params"])
  kernel = np.zeros(params["mix"]["kernel"].shape, np.float32)
  kernel[kind] = 1.0
  return np.asarray(setting["run"](params | {"mix": {"kernel": kernel}})[0]), params


@pytest.mark.parametrize("kind", range(pairs.NUM_PAIRS + 4))
def test_a_relation_is_from_the_shown_to_the_next_and_none_to_what_is_absent(setting, kind):
  relation, params = _only(setting, kind)
  catalog, candidates = setting["catalog"], setting["rows"].candidates
  parent, unit = catalog.poi_parent, lambda x: x / np.linalg.norm(x)
  table, projection = np.asarray(params["pairs"]["parents"]), np.asarray(params["pairs"]["content"]["kernel"])

  def expected(shown, new):
    if kind == 0:
      return 1.0
    if kind in (1, 2):
      of = catalog.poi_category if kind == 1 else parent
      return float(of[shown] == of[new])
    if kind == 3:
      return unit(catalog.poi_embedding[shown]) @ unit(catalog.poi_embedding[new])
    if kind in (4, 5):
      return table[parent[new], parent[shown], kind - 4]
    width = projection.shape[1] // 2
    part = projection[:, (kind - 6) * width : (kind - 5) * width]
    return max(unit(catalog.poi_embedding[shown] @ part) @ unit(catalog.poi_embedding[new] @ part), 0.0)

  for b, j, i in np.ndindex(relation.shape):
    shown, new = candidates[b, j], candidates[b, i]
    there = shown >= 0 and new >= 0 and i != j
    assert relation[b, j, i] == pytest.approx(expected(shown, new) if there else 0.0, abs=1e-5)
  if kind in (4, 5):
    assert np.abs(relation - relation.swapaxes(1, 2)).max() > 1e-3
