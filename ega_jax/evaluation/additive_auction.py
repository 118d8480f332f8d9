"""Grading of auctions for additive bidders with values uniform on [0, 1]: revenue, and ex-post regret sought far harder
than in training (exhaustive grids, many starts), beside the bound where one is known.

Gradient misreports alone under-report: a published net's regret can be hundreds of times what its own test finds (You
et al., arXiv 2601.13489). So one or two items are searched by a grid, whose best points an ascent refines.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.losses.misreports import additive_utility, ascend_misreports, misreport_utility

GRID = {1: 201, 2: 101}  # points an axis of the exhaustive grid, by the number of items


def single_item_revenue(bidders):
  """Returns Myerson's revenue of one item and n bidders U[0, 1]: (n - 1)/(n + 1) + 1/((n + 1) 2^n)."""
  return (bidders - 1) / (bidders + 1) + 1 / ((bidders + 1) * 2**bidders)


def known_bounds(bidders, items):
  """Returns {"item_wise_myerson": revenue of selling items apart, which is incentive compatible} and, where theory
  knows it (one item, or one bidder and two items), "optimum": the most that an incentive compatible auction earns."""
  found = {"item_wise_myerson": items * single_item_revenue(bidders)}
  if items == 1:
    found["optimum"] = found["item_wise_myerson"]
  elif (bidders, items) == (1, 2):
    found["optimum"] = (12 + 2 * math.sqrt(2)) / 27
  return found


def check_sizes(items, profiles, grid_profiles, ascent_profiles):
  """Raises ValueError unless `grade` can search that many of the profiles and give standard errors.

  Args: items: m; profiles: how many there are; grid_profiles, ascent_profiles: of `grade`.
  """
  name, searched = ("grid_profiles", grid_profiles) if items in GRID else ("ascent_profiles", ascent_profiles)
  if not 2 <= searched <= profiles:
    raise ValueError(f"{name} is {searched} of {profiles} profiles; it must be at least 2 and at most profiles")


def grade(auction, values, *, grid_profiles, ascent_profiles, best=5, refine_steps=50, starts=100, ascent_steps=500,
          step_size=0.1, seed=0, chunk=8):  # fmt: skip
  """Returns the figures of an auction on profiles f[P, n, m].

  One or two items: the grid, refined by ascent from its `best` points by steps of the grid's spacing. More: ascent from
  `starts` random points. An ascent keeps the best point it visits.

  Args:
    auction: bids f[..., n, m] -> (allocation f[..., n, m], payments f[..., n]), traceable.
    grid_profiles, ascent_profiles: how many of the profiles are searched (one or two items; more).
    best, refine_steps: points of the grid that are refined, and by how many steps.
    starts, ascent_steps, step_size: of more items; step_size of Adam, constant.
    seed: of the random starts. chunk: profiles at once.

  Raises:
    ValueError: as `check_sizes`.
  """
  values = np.asarray(values, np.float32)
  bidders, items = values.shape[1:]
  check_sizes(items, len(values), grid_profiles, ascent_profiles)
  if items in GRID:
    searched, search = values[:grid_profiles], functools.partial(_by_grid, auction, best, refine_steps)
  else:
    searched, search = values[:ascent_profiles], functools.partial(_by_ascent, auction, starts, ascent_steps, step_size)
  keys = jax.random.split(jax.random.key(seed), len(searched))
  gains = jax.jit(lambda v, k: jax.lax.map(lambda one: search(*one), (v, k), batch_size=chunk))(searched, keys)
  found = {name: np.maximum(np.asarray(gain, np.float64), 0.0) for name, gain in gains.items()}
  regret = np.max(list(found.values()), axis=0)  # [P, n]
  allocation, payments = (np.asarray(a, np.float64) for a in jax.jit(auction)(values))
  revenue, worth = payments.sum(-1), (allocation * values).sum((-1, -2))
  return {
    "profiles": len(values),
    "revenue": float(revenue.mean()),
    "revenue_stderr": float(revenue.std(ddof=1) / math.sqrt(len(revenue))),
    "welfare": float(worth.mean()),
    "searched_profiles": len(searched),
    "regret": float(regret.mean()),  # per bidder
    "regret_stderr": float(regret.mean(1).std(ddof=1) / math.sqrt(len(regret))),
    "regret_p99": float(np.quantile(regret, 0.99)),
    "regret_max": float(regret.max()),
    **{f"regret_{name}": float(gain.mean()) for name, gain in found.items()},
    "regret_over_payment": float(regret.sum() / max(payments[: len(searched)].sum(), 1e-12)),
    "ir_violations": int(((allocation * values).sum(-1) - payments < -1e-6).sum()),
    **known_bounds(bidders, items),
  }


def _by_grid(auction, best, steps, values, key):
  """Returns {"grid": largest gain f[n] on the grid, "refined": after ascent} of one profile f[n, m]."""
  del key
  bidders, items = values.shape
  axis = jnp.linspace(0.0, 1.0, GRID[items])
  grid = jnp.stack(jnp.meshgrid(*[axis] * items, indexing="ij"), axis=-1).reshape(-1, items)
  utility, truth = _utility(auction, values), additive_utility(auction, values, values)
  gains = utility(jnp.broadcast_to(grid[:, None], (len(grid), bidders, items)))  # [G, n]
  highest, at = jax.lax.top_k(gains.T, best)  # [n, best]
  refined = ascend_misreports(utility, jnp.moveaxis(grid[at], 0, 1), steps, 1.0 / (GRID[items] - 1))[1]
  return {"grid": highest[:, 0] - truth, "refined": refined.max(0) - truth}


def _by_ascent(auction, starts, steps, step_size, values, key):
  """Returns {"ascent": largest gain f[n]} of one profile f[n, m] from random starts."""
  first = jax.random.uniform(key, (starts, *values.shape))
  found = ascend_misreports(_utility(auction, values), first, steps, step_size)[1]
  return {"ascent": found.max(0) - additive_utility(auction, values, values)}


def _utility(auction, values):
  """Returns misreports f[..., n, m] -> utility f[..., n] of one profile f[n, m]."""
  return lambda found: misreport_utility(auction, jnp.broadcast_to(values, found.shape), found)
