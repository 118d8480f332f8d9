"""Laws of auctions as networks, at random parameters: feasible, individually rational, symmetric where promised."""

import jax
import numpy as np
import pytest

from ega_jax.models.regret_net import NETWORKS, regret_network


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("bidders", "items"), [(1, 2), (3, 1), (2, 3)])
def test_no_item_is_sold_twice_and_nobody_pays_more_than_the_worth_of_what_it_gets(name, bidders, items):
  bids = jax.random.uniform(jax.random.key(0), (50, bidders, items))
  network = regret_network(name, bidders, items, 16, 2)
  params = network.init(jax.random.key(1), bids)
  params = jax.tree.map(lambda leaf: 4.0 * leaf, params)  # far from the middle of the softmax
  allocation, payments = network.apply(params, bids)
  assert allocation.shape == (50, bidders, items)
  assert payments.shape == (50, bidders)
  assert (allocation >= 0).all()
  assert (allocation.sum(-2) <= 1 + 1e-6).all()
  assert (payments >= 0).all()
  assert (payments <= (allocation * bids).sum(-1) + 1e-6).all()


def test_renaming_bidders_and_items_renames_an_exchangeable_outcome():
  bids = jax.random.uniform(jax.random.key(0), (20, 3, 4))
  network = regret_network("exchangeable", 3, 4, 16, 3)
  params = network.init(jax.random.key(1), bids)
  allocation, payments = network.apply(params, bids)
  rows, columns = np.array([2, 0, 1]), np.array([3, 1, 0, 2])
  renamed, paid = network.apply(params, bids[:, rows][:, :, columns])
  np.testing.assert_allclose(renamed, allocation[:, rows][:, :, columns], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(paid, payments[:, rows], rtol=1e-5, atol=1e-6)
  assert np.ptp(np.asarray(allocation), axis=(1, 2)).max() > 1e-3  # and is no constant


def test_batch_equals_loop():
  bids = jax.random.uniform(jax.random.key(0), (4, 5, 2, 2))
  for name in NETWORKS:
    network = regret_network(name, 2, 2, 8, 2)
    params = network.init(jax.random.key(1), bids)
    allocation, payments = network.apply(params, bids)
    one = network.apply(params, bids[1, 3])
    np.testing.assert_allclose(allocation[1, 3], one[0], rtol=1e-5)
    np.testing.assert_allclose(payments[1, 3], one[1], rtol=1e-5)


def test_unknown_networks_are_refused():
  with pytest.raises(ValueError, match="network is 'transformer'; allowed: regret_net, exchangeable"):
    regret_network("transformer", 2, 2, 8, 2)
