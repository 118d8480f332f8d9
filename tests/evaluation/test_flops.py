"""Operations of a program: matrix products by hand, loops as often as they run, systems in the order of their cost."""

import jax
import jax.numpy as jnp
import pytest

import tiny_run
from ega_jax.baselines.cascade import Cascade
from ega_jax.evaluation import flops
from ega_jax.evaluation.oracle import PopularityFloor
from ega_jax.stages import recipe
from ega_jax.systems.ega import Options

A, B = jnp.ones((3, 5)), jnp.ones((5, 7))
ONE = 2 * 3 * 5 * 7


def _scanned(a, b):
  return jax.lax.scan(lambda total, _: (total + a @ b, None), jnp.zeros((3, 7)), None, length=4)[0]


@pytest.mark.parametrize(
  ("function", "expected"),
  [
    (lambda a, b: a @ b, ONE),
    (lambda a, b: jnp.sin(a) + 1, 0),
    (lambda a, b: jnp.einsum("ij,jk->ki", a, b), ONE),
    (jax.vmap(lambda a, b: a * b.sum(), (None, 1)), 0),
    (lambda a, b: jax.vmap(lambda one: one @ b)(jnp.stack([a, a])), 2 * ONE),
    (jax.jit(lambda a, b: jax.jit(jnp.dot)(a, b) + a @ b), 2 * ONE),
    (_scanned, 4 * ONE),
    (lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: (a @ b) + (a @ b)), 2 * ONE),
    (lambda a, b: jax.lax.fori_loop(0, 6, lambda _, x: x + a @ b, jnp.zeros((3, 7))), 6 * ONE),
  ],
)
def test_products_are_counted_by_hand(function, expected):
  assert flops.of_function(function, A, B) == expected


def test_more_lists_and_generation_cost_more():
  config, models, params = tiny_run.config(), tiny_run.models(), tiny_run.trained()[1]
  batch = tiny_run.requests_of_test()
  bids = batch["bid"][:, None]
  count = lambda system: flops.of_system(system, batch, bids)
  cascade = lambda lists: Cascade(
    "MCA", recipe.build_ranker(config), params["ranker"], 4, models=models, num_lists=lists
  )
  ega = lambda **options: recipe.ega_system(config, models, params["policy"], Options(**options))
  assert 0 < count(cascade(0)) < count(cascade(12)) < count(ega())
  assert count(ega(bid_free=True)) > count(cascade(0))
  halves = {name: column[: len(bids) // 2] for name, column in batch.items()}
  assert flops.of_system(cascade(0), halves, bids[: len(bids) // 2]) == pytest.approx(count(cascade(0)), rel=0.2)
  assert count(PopularityFloor(params["policy"]["catalog"].poi_popularity, None, 4)) == 0


def test_a_request_costs_the_same_whatever_was_asked_before():
  batch = tiny_run.requests_of_test()
  system = recipe.ega_system(tiny_run.config(), tiny_run.models(), tiny_run.trained()[1]["policy"])
  first = flops.of_system(system, batch, batch["bid"][:, None])
  system.allocate(batch, batch["bid"][:, None])
  assert flops.of_system(system, batch, batch["bid"][:, None]) == first
