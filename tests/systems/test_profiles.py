"""Cells of own bids: what a sweep computes at once."""

import jax.numpy as jnp
import numpy as np

from ega_jax.decoding.lists import ListConfig, proposal_bids
from ega_jax.systems.profiles import cells_between, distinct_columns


def test_every_bid_below_the_largest_falls_into_a_cell_that_is_there():
  rng = np.random.default_rng(0)
  for scale, ratio in ((0.37, 2.0), (5.0, 1.5)):
    lists = ListConfig(bid_cell=ratio, bid_scale=np.float32(scale))
    bids = scale * np.exp(2.0 * rng.normal(size=(3, 4, 6))).astype(np.float32)
    bids[0, 0] = 0.0  # an ad whose bids all count as 0
    found = cells_between(proposal_bids(jnp.asarray(bids), lists), lists)
    more = bids.max(-1, keepdims=True) * rng.random((3, 4, 200)).astype(np.float32)
    cells = np.asarray(proposal_bids(jnp.asarray(more), lists))
    for row in np.ndindex(3, 4):
      assert np.isin(cells[row], found[row]).all() and (np.diff(found[row]) >= 0).all()
      assert found[row].max() == np.asarray(proposal_bids(jnp.asarray(bids[row]), lists)).max()
    assert not found[0, 0].any()


def test_bids_that_are_seen_as_they_are_have_no_cells_between():
  bids = np.random.default_rng(1).random((2, 2, 5)).astype(np.float32)
  np.testing.assert_array_equal(cells_between(bids, ListConfig()), distinct_columns(bids)[0])
