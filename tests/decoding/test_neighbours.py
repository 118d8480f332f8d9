"""Neighbours of a list: every move is what it says, and nothing illegal comes of it."""

import jax.numpy as jnp
import numpy as np

from ega_jax.decoding.neighbours import moves, neighbours
from ega_jax.systems import merge
from oracles_evaluation import legal, scored_market

LENGTH = 5


def test_neighbours_are_legal_and_every_move_is_what_it_says():
  score, is_ad, valid = scored_market(seed=1)
  valid[0] = valid[1]
  items = np.asarray(merge.greedy_merge(score, is_ad, valid, LENGTH))
  chosen = moves(LENGTH, 40, 2)
  assert chosen.shape == (40, 3) and len({tuple(move) for move in chosen}) == 40
  assert set(chosen[:, 0]) == {0, 1, 2, 3} and chosen[0].tolist() == [0, 0, 0]
  ad_score = np.where(is_ad[:, None], score, -np.inf)
  found = np.asarray(neighbours(items, ad_score, is_ad, valid, jnp.asarray(chosen), chosen[:, 2].max() + 1))
  assert found.shape == (4, 3, 40, LENGTH)
  for b in range(4):
    for g in range(3):
      shown = set(items[b, g].tolist())
      waiting = sorted(set(np.flatnonzero(is_ad[b])) - shown, key=lambda i: -score[b, g, i])
      for move, neighbour in zip(chosen, found[b, g], strict=True):
        assert legal(neighbour, is_ad[b], valid[b])
        kinds = [int(is_ad[b, i]) and int(i) for i in items[b, g]]  # 0: some organic item
        kind, slot, other = move
        if kind == 1:
          kinds[slot], kinds[other] = kinds[other], kinds[slot]
        elif kind == 2 and other < len(waiting):
          kinds[slot] = waiting[other]
        elif kind == 3:
          kinds[slot] = 0
        if kinds.count(0) <= (valid[b] & ~is_ad[b]).sum():
          assert [int(is_ad[b, i]) and int(i) for i in neighbour] == kinds
  assert len({tuple(neighbour) for neighbour in found[1, 0]}) > 10


def test_more_ranks_than_candidates_repeat_the_list():
  score, is_ad, valid = scored_market(batch=1)
  items = np.asarray(merge.greedy_merge(score, is_ad, valid, 2))
  chosen = moves(2, 40, 1)
  found = np.asarray(neighbours(items, score, is_ad, valid, jnp.asarray(chosen), chosen[:, 2].max() + 1))
  np.testing.assert_array_equal(found[:, :, -1], items)
