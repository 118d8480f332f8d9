"""Own-bid tables, the Myerson integral, regret, the least regret: against loops, formulas and a dense program."""

import numpy as np
import pytest
from scipy import optimize

import oracles
from ega_jax import types
from ega_jax.auction import allocation, regret

RNG = np.random.default_rng(0)
THETA = RNG.uniform(size=(4, 15, 5)) * (RNG.uniform(size=(4, 15, 5)) < 0.5)
BIDS = RNG.uniform(0.1, 1.0, (4, 5))
ADS = np.array([[0, 1, 2], [3, 4, -1], [1, 3, 0], [2, 2, 4]])
ALLOCATE = allocation.affine_maximiser(THETA)


def table_of(num_nodes=64):
  return regret.counterfactual_table(ALLOCATE, BIDS, ADS, regret.own_bid_nodes(np.ones(ADS.shape), num_nodes))


def rough_curves(seed, shape, nodes=20):
  """Step curves that rise and fall."""
  rng = np.random.default_rng(seed)
  levels = rng.uniform(size=shape + (5,))
  return np.repeat(levels, nodes // 5, axis=-1)


def test_nodes():
  nodes = regret.own_bid_nodes(np.array([[1.0, 3.0]]), 65)
  assert nodes.shape == (1, 2, 65) and (nodes[..., 0] == 0).all()
  np.testing.assert_allclose(nodes[..., -1], [[2.0, 6.0]])
  np.testing.assert_allclose(np.diff(nodes[0, 1]), 6 / 64)
  assert (np.diff(regret.own_bid_nodes(np.ones(1), 64, spacing="geometric")) > 0).all()
  for bad in (np.array([np.nan]), np.array([0.0])):
    with pytest.raises(ValueError, match="largest_value"):
      regret.own_bid_nodes(bad)
  with pytest.raises(ValueError, match="spacing"):
    regret.own_bid_nodes(np.ones(1), spacing="cubic")


def test_round_down():
  nodes = np.array([[0.0, 0.5, 1.0]] * 5)
  index, node = regret.round_down(np.array([0.0, 0.49, 0.5, 0.99, 7.0]), nodes)
  assert index.tolist() == [0, 0, 1, 1, 2] and node.tolist() == [0, 0, 0.5, 0.5, 1.0]


def test_table_equals_a_loop_over_bids_and_any_chunk():
  table = table_of(16)
  for b, a, g in np.ndindex(table.x.shape):
    profile, ad = BIDS[b].copy(), ADS[b, a]
    if ad < 0:
      assert table.x[b, a, g] == 0
      continue
    profile[ad] = table.nodes[b, a, g]
    best = (THETA[b] @ profile).argmax()
    assert table.payload["list"][b, a, g] == best and table.x[b, a, g] == THETA[b, best, ad]
  for chunk in (1, 7, 1000):
    again = regret.counterfactual_table(ALLOCATE, BIDS, ADS, table.nodes, chunk=chunk)
    assert (again.x == table.x).all()
    np.testing.assert_allclose(again.payload["score"], table.payload["score"], rtol=1e-14)
  with pytest.raises(ValueError, match="ads must be"):
    regret.counterfactual_table(ALLOCATE, BIDS, ADS + 1, table.nodes)
  with pytest.raises(ValueError, match="do not fit"):
    regret.counterfactual_table(ALLOCATE, BIDS[:2], ADS, table.nodes)


def test_slates_and_outcomes_are_read_by_the_own_ad():
  items = np.array([[[2, 0, -1], [1, 2, 0]]])  # [B=1, P=2, K]
  theta = np.array([[[0.5, 0.4, 0.9], [0.3, 0.2, 0.1]]])
  nodes = np.array([[[0.0, 1.0]]])
  slate = types.Slate(items=items, creatives=items, click_probability=theta)
  table = regret.counterfactual_table(lambda bids: slate, np.ones((1, 3)), np.array([[2]]), nodes)
  np.testing.assert_allclose(table.x, [[[0.5, 0.2]]])
  assert regret.own_slot(table.payload.items, table.ads).tolist() == [[[0, 1]]]
  assert regret.own_slot(table.payload.items, np.array([[1]])).tolist() == [[[3, 0]]]
  assert regret.own_slot(table.payload.items, np.array([[-1]])).tolist() == [[[3, 3]]]
  outcome = lambda bids: types.Outcome(click_probability=bids * 0.1, price=bids * 0.5)
  table = regret.counterfactual_table(outcome, np.ones((1, 3)), np.array([[1]]), nodes)
  np.testing.assert_allclose(table.price, [[[0.0, 0.5]]])
  np.testing.assert_allclose(table.x, [[[0.0, 0.1]]])


def test_myerson_integral_is_truthful_and_equals_the_sum():
  table = table_of(64)
  payments = regret.myerson_integral(table)
  assert not payments.clipped.any() and not regret.falls(table.x)[0].any()
  total = np.zeros(ADS.shape)
  for k in range(64):
    total += table.nodes[..., k] * (table.x[..., k] - (table.x[..., k - 1] if k else 0))
    np.testing.assert_allclose(payments.expected[..., k], total, atol=1e-14)
    lost = regret.regret_table(table.x, payments.price, table.nodes, np.full(ADS.shape, k))
    assert lost.regret.max() <= 1e-15 and lost.utility.min() >= -1e-15
  assert payments.expected.max() > 0.05


def test_myerson_integral_is_clipped_above_a_fall():
  x, nodes = np.array([[[0.0, 0.8, 0.1, 0.5]]]), np.array([[[0.0, 1.0, 2.0, 3.0]]])
  payments = regret.myerson_integral(regret.CounterfactualTable(nodes=nodes, x=x, ads=np.zeros((1, 1), int)))
  np.testing.assert_allclose(payments.expected[0, 0], [0.0, 0.8, 0.0, 0.6])  # .8 - 1.4 < 0 is clipped, then + 1.2
  assert payments.clipped[0, 0].tolist() == [False, False, True, False]
  assert (payments.expected <= nodes * x + 1e-15).all()


def test_refinement_converges_to_the_exact_threshold():
  allocate = lambda bids: (bids >= np.array([0.1234567, 9.0, 9.0, 9.0, 9.0])) * 1.0
  ads = np.zeros((1, 1), int)
  table = regret.counterfactual_table(allocate, BIDS[:1], ads, regret.own_bid_nodes(np.ones((1, 1)), 41))
  fine = regret.refine_table(allocate, BIDS[:1], table, rounds=20)
  assert fine.nodes.shape == (1, 1, 61) and (np.diff(fine.nodes) > 0).all()
  assert abs(regret.myerson_integral(fine).price[0, 0, -1] - 0.1234567) < 2 / 40 / 2**19
  assert abs(regret.myerson_integral(table).price[0, 0, -1] - 0.1234567) > 1e-3


def test_regret_table_equals_loops():
  rng = np.random.default_rng(1)
  x, price, nodes = rng.uniform(size=(3, 2, 9)), rng.uniform(size=(3, 2, 9)), np.sort(rng.uniform(size=(3, 2, 9)))
  own, value = rng.integers(9, size=(3, 2)), rng.uniform(size=(3, 2))
  got = regret.regret_table(x, price, nodes, own, value)
  for at in np.ndindex(3, 2):
    want = oracles.regret_by_loops(x[at], price[at], nodes[at], own[at], value[at])
    np.testing.assert_allclose(got.regret[at], want)
    np.testing.assert_allclose(got.payment[at], (x * price)[at][own[at]])
  summary = regret.summarise_regret(got, np.array([[True, False]] * 3))
  np.testing.assert_allclose(summary["mean_regret"], got.regret[:, 0].mean())
  np.testing.assert_allclose(summary["regret_over_payment"], got.regret[:, 0].sum() / got.payment[:, 0].sum())
  assert regret.summarise_regret(got, np.zeros((3, 2), bool))["mean_regret"] == 0.0


def test_ex_post_regret_of_first_price():
  # One item, the other bids .4: with value 1 the best bid on the grid of tenths is .5, worth .5; truth is worth 0.
  first = lambda bids: types.Outcome(click_probability=1.0 * (bids > bids[..., ::-1]), price=bids)
  lost = regret.ex_post_regret(first, np.array([[1.0, 0.4]]), np.linspace(0, 1, 11))
  np.testing.assert_allclose(lost.regret, [[0.5, 0.0]])
  np.testing.assert_allclose(lost.best[0, 0], 0.5)


def test_falls():
  falling, depth = regret.falls(np.array([[[0.0, 0.5, 0.4, 0.8, 0.2]], [[0.1, 0.1, 0.2, 0.3, 0.3]]]))
  assert falling.tolist() == [[True], [False]]
  np.testing.assert_allclose(depth, [[0.75], [0.0]])


def dense_program(x, nodes, weights):
  """The least regret with one payment per node and every constraint written out."""
  count = len(x)
  rows, bound = [], []
  for k in range(count):
    for j in range(count):
      row = np.zeros(2 * count)
      row[k] += 1
      row[j] -= 1
      row[count + k] -= 1
      rows.append(row)
      bound.append(nodes[k] * (x[k] - x[j]))
  limits = [(0, n * c) for n, c in zip(nodes, x, strict=True)] + [(0, None)] * count
  return optimize.linprog(np.concatenate([np.zeros(count), weights]), A_ub=rows, b_ub=bound, bounds=limits).fun


@pytest.mark.parametrize("weighted", [False, True])
def test_least_regret_equals_the_dense_program_and_is_attained(weighted):
  x, nodes = rough_curves(2, (2, 2)), np.broadcast_to(np.linspace(0, 2, 20), (2, 2, 20))
  weights = np.random.default_rng(3).dirichlet(np.ones(20)) if weighted else np.full(20, 1 / 20)
  table = regret.CounterfactualTable(nodes=nodes, x=x, ads=np.zeros((2, 2), int))
  least = regret.least_regret(table, weights if weighted else None)
  myerson = regret.myerson_integral(table)
  for at in np.ndindex(2, 2):
    np.testing.assert_allclose(least.regret[at], dense_program(x[at], nodes[at], weights), atol=1e-6)
    mean = lambda paid, at=at: weights @ [
      max(nodes[at][k] * x[at] - paid) - (nodes[at][k] * x[at][k] - paid[k]) for k in range(20)
    ]
    np.testing.assert_allclose(mean(least.expected[at]), least.regret[at], atol=1e-7)
    assert least.regret[at] <= mean(myerson.expected[at]) + 1e-9
  assert least.regret.max() > 0.01
  assert (least.expected >= -1e-12).all() and (least.expected <= nodes * x + 1e-9).all()


def test_least_regret_of_monotone_curves_is_zero_with_the_myerson_payment():
  table = table_of(32)
  least = regret.least_regret(table)
  assert (least.regret == 0).all()
  np.testing.assert_allclose(least.expected, regret.myerson_integral(table).expected, atol=1e-14)
