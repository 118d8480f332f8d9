"""The choice among lists when one ad's bid moves, against the choice of every profile by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.decoding.slate import Objective
from ega_jax.systems.choice import Options, choose, choose_own_bid
from ega_jax.systems.profiles import own_bid_profiles
from ega_jax.types import Lists, Request

B, C, U, K, A, D, S, G = 3, 9, 7, 4, 3, 2, 5, 6


def _request(rng):
  fields = {name: np.zeros((B, 1), np.int32) for name in Request.__dataclass_fields__}
  is_ad = np.broadcast_to(np.arange(C) >= 4, (B, C))
  bid = np.where(is_ad, rng.lognormal(size=(B, C)), 0.0).astype(np.float32)
  mu = np.where(is_ad, rng.normal(size=(B, C)), 0.0).astype(np.float32)
  candidates = rng.integers(0, 50, (B, C)).astype(np.int32)
  return Request(**fields | {"is_ad": is_ad, "bid": bid, "value_mu": mu, "candidates": candidates})


def _lists(rng):
  items = np.stack([[rng.permutation(C)[:K] for _ in range(U)] for _ in range(B)]).astype(np.int32)
  items[:, 2], items[:, 4] = items[:, 1], items[:, 0]  # ties
  items[:, -1] = -1  # a slot without a list
  items[0, 0, -1] = -1  # and a short one
  index = rng.integers(0, U - 1, (B, A * D, S)).astype(np.int32)
  log_z = rng.normal(size=index.shape).astype(np.float32)
  log_z[:, :, -1] = -np.inf
  log_z[1, 0] = -np.inf  # a profile without any list
  return Lists(items, index, log_z, np.zeros(B, bool))


@pytest.mark.parametrize("virtual", [0.0, 0.3, 1.0])
def test_the_choice_of_own_bids_is_that_of_their_profiles(virtual):
  rng = np.random.default_rng(0)
  request, found, options = _request(rng), _lists(rng), Options(virtual=virtual)
  theta = np.where(found.items >= 0, rng.uniform(0.01, 0.3, (B, U, K)), 0.0).astype(np.float32)
  theta[:, 2], theta[:, 4] = theta[:, 1], theta[:, 0]
  creatives = np.where(found.items >= 0, rng.integers(0, 99, (B, U, K)), -1).astype(np.int32)
  ads = np.array([[4, 8, -1], [5, 6, 7], [8, -1, -1]], np.int32)
  nodes = np.sort(rng.lognormal(0, 1.5, (B, A, G)), -1).astype(np.float32)
  place = np.sort(rng.integers(0, D, (B, A, G)), -1)
  objective = Objective(2.0, 0.05)
  fast = choose_own_bid(
    options, request, jax.tree.map(jnp.asarray, found), creatives, theta, request.bid, jnp.asarray(ads),
    jnp.asarray(nodes), jnp.asarray(place), objective,
  )  # fmt: skip
  row = (np.arange(A)[:, None] * D + place).reshape(B, A * G)
  pick = lambda leaf: jnp.asarray(np.take_along_axis(leaf, row[..., None], 1))
  each = Lists(jnp.asarray(found.items), pick(found.index), pick(found.log_z), found.overflow)
  profiles = own_bid_profiles(request.bid, jnp.asarray(ads), jnp.asarray(nodes))
  slow = choose(options, request, each, creatives, theta, profiles, objective)
  for name in ("items", "creatives", "click_probability"):
    one, other = np.asarray(getattr(fast, name)), np.asarray(getattr(slow, name)).reshape(B, A, G, K)
    np.testing.assert_array_equal(one, other, err_msg=name)
  distinct = {tuple(items) for items in np.asarray(fast.items).reshape(-1, K)}
  assert len(distinct) > 5 and (-1,) * K in distinct
