"""Lists of the baselines against slow loops: greedy slots, neighbours, ads ranked into their slots, best of many."""

import jax.numpy as jnp
import numpy as np

from ega_jax.baselines import cascade, list_generation, proposals
from ega_jax.systems import merge

LENGTH, ORGANIC, ADS = 5, 6, 4


def _market(batch=4, profiles=3, seed=0):
  """Returns (score f32[B, G, C], is_ad, valid bool[B, C]): organic first, then ads, then one absent position."""
  rng = np.random.default_rng(seed)
  count = ORGANIC + ADS + 1
  is_ad = np.broadcast_to(np.arange(count) >= ORGANIC, (batch, count)).copy()
  valid = np.broadcast_to(np.arange(count) < count - 1, (batch, count)).copy()
  valid[0, ORGANIC - 3 : ORGANIC] = False  # few candidates
  return rng.random((batch, profiles, count)).astype(np.float32), is_ad & valid, valid


def greedy_by_loop(score, is_ad, valid, length):
  """One list, slot by slot."""
  items = []
  for _ in range(length):
    left = [i for i in range(len(score)) if valid[i] and i not in items]
    organic = [i for i in left if not is_ad[i]][:1]
    choice = [i for i in left if is_ad[i]] + organic
    items.append(max(choice, key=lambda i: (score[i], -i)) if choice else -1)
  return items


def legal(items, is_ad, valid):
  """Whether a list uses valid candidates once, organic ones from the first on and in order."""
  shown = [i for i in items if i >= 0]
  organic = [i for i in shown if not is_ad[i]]
  expected = np.flatnonzero(valid & ~is_ad)[: len(organic)].tolist()
  return len(set(shown)) == len(shown) and all(valid[i] for i in shown) and organic == expected


def test_greedy_merge_is_the_loop():
  score, is_ad, valid = _market()
  for length in (LENGTH, 9):
    found = np.asarray(merge.greedy_merge(score, is_ad, valid, length))
    for b in range(len(score)):
      for g in range(score.shape[1]):
        assert found[b, g].tolist() == greedy_by_loop(score[b, g], is_ad[b], valid[b], length)
  assert (found[0] == -1).any()  # the short request ran out


def test_ties_go_to_the_earlier_position_and_share_is_what_it_says():
  _, is_ad, valid = _market()
  found = np.asarray(merge.greedy_merge(np.ones((4, 1, valid.shape[1]), np.float32), is_ad, valid, 3))
  np.testing.assert_array_equal(found[1, 0], [0, 1, 2])
  items = np.array([[[0, 6, -1]], [[6, 7, 1]]])
  assert float(merge.ad_share(items, is_ad[:2])) == np.float32(3 / 5)


def test_neighbours_are_legal_and_every_move_is_what_it_says():
  score, is_ad, valid = _market(seed=1)
  valid[0] = valid[1]
  items = np.asarray(merge.greedy_merge(score, is_ad, valid, LENGTH))
  chosen = proposals.moves(LENGTH, 40, 2)
  assert chosen.shape == (40, 3) and len({tuple(move) for move in chosen}) == 40
  assert set(chosen[:, 0]) == {0, 1, 2, 3} and chosen[0].tolist() == [0, 0, 0]
  ad_score = np.where(is_ad[:, None], score, -np.inf)
  found = np.asarray(proposals.neighbours(items, ad_score, is_ad, valid, jnp.asarray(chosen), chosen[:, 2].max() + 1))
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
  score, is_ad, valid = _market(batch=1)
  items = np.asarray(merge.greedy_merge(score, is_ad, valid, 2))
  chosen = proposals.moves(2, 40, 1)
  found = np.asarray(proposals.neighbours(items, score, is_ad, valid, jnp.asarray(chosen), chosen[:, 2].max() + 1))
  np.testing.assert_array_equal(found[:, :, -1], items)


def test_ads_are_ranked_among_their_slots():
  rng = np.random.default_rng(2)
  _, is_ad, _ = _market()
  items = np.array([[6, 0, 7, 9, -1], [0, 1, 8, 2, 6], [0, 1, 2, 3, 4], [9, 8, 7, 6, 0]])
  theta = rng.random((4, LENGTH)).astype(np.float32)
  bids = rng.random((4, 3, is_ad.shape[1])).astype(np.float32)
  found = list_generation.rank_ads(items, theta, bids, is_ad)
  for b in range(4):
    for g in range(3):
      slots = [k for k in range(LENGTH) if items[b, k] >= 0 and is_ad[b, items[b, k]]]
      order = sorted(slots, key=lambda k: -bids[b, g, items[b, k]] * theta[b, k])
      expected = items[b].copy()
      expected[slots] = items[b, order]
      np.testing.assert_array_equal(found[b, g], expected)


def test_best_list_is_the_loop_with_ties_to_the_first():
  rng = np.random.default_rng(3)
  score, is_ad, valid = _market(seed=3)
  lists = np.stack([merge.greedy_merge(rng.random(score.shape, np.float32), is_ad, valid, 4) for _ in range(5)], 2)
  lists[0, 0, 1, 2:] = -1
  lists = np.concatenate([lists, lists[:, :, :1]], 2)
  theta = rng.random(lists.shape)
  theta[:, :, -1] = theta[:, :, 0]
  bids = rng.random(score.shape)
  items, chosen = cascade.best_list(lists, theta, bids, is_ad, 0.4)
  for b in range(4):
    for g in range(3):
      worth = lambda i, b=b, g=g: 0.0 if i < 0 else bids[b, g, i] if is_ad[b, i] else 0.4
      total = [sum(worth(i) * t for i, t in zip(*pair, strict=True))
               for pair in zip(lists[b, g], theta[b, g], strict=True)]  # fmt: skip
      best = int(np.argmax(total))
      np.testing.assert_array_equal(items[b, g], lists[b, g, best])
      np.testing.assert_array_equal(chosen[b, g], theta[b, g, best])


def test_fixed_slots_are_spread_evenly():
  for length in (4, 10):
    for count in range(length + 1):
      slots = np.flatnonzero(cascade._spread(count, length))
      assert len(slots) == count
      if count > 1:
        assert np.diff(slots).max() - np.diff(slots).min() <= 1
