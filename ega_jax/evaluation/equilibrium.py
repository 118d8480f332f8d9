"""Revenue at the symmetric shading equilibrium of a system's own payment rule: RPM (c) of BUILD_NOTES.md."""

import dataclasses

import numpy as np
from scipy import stats

from ega_jax.auction import equilibrium
from ega_jax.evaluation import payments
from ega_jax.evaluation.audit import audited_ads
from ega_jax.evaluation.systems import chunks_by_ads, take, true_clicks
from ega_jax.systems.pricing import value_location
from ega_jax.systems.rows import at_items, own_of

MULTIPLIERS = equilibrium.MULTIPLIERS
CLASSES = (0.5, 0.75, 0.9)  # quantiles of an ad's own value distribution that part its values into classes


@dataclasses.dataclass(frozen=True)
class EquilibriumOptions:
  """How the deviations are sampled; the draws are the same for every g and multiplier."""

  num_requests: int = 200
  num_unshown: int = 4  # random ads per request that are not shown at the truth; each stands for its share of them
  sigma: float = payments.SIGMA
  requests_per_call: int = 8
  profiles_per_call: int = 256
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class ClassedEquilibrium(equilibrium.ShadingEquilibrium):
  """A shading equilibrium, and how far it is from one of bidders who shade by their value.

  gain_by_value: relative gain of a deviator that bids the multiple that is best for its class of values (`CLASSES`).
    Near 0 for a truthful rule; where it is not, no Bayes-Nash equilibrium was found, and revenue equivalence does not
    hold for what is paid there (a sample's best multiples flatter themselves a little).
  """

  gain_by_value: float = 0.0


def deviation_utilities(system, rule, columns, shading, multipliers, world=None, options=None):
  """Returns the utility f64[V, M] of one ad that bids m * v while every other bids shading * v.

  Its mean over all candidate ads, each deviating alone, is the sum over V classes of values, by the quantile
  (`CLASSES`) of the ad's own distribution. Those shown at the truth deviate, and some unshown ones by weight (a plain
  draw of one ad in a hundred would leave the mean to a handful of shown ads). Clicks are the world's if it is given
  (what an advertiser lives on), else the slate's belief.

  Args: system, rule: as in evaluation.systems; columns: request columns, of which options.num_requests are sampled;
    multipliers f[M]: the m; options: EquilibriumOptions.
  """
  options = options or EquilibriumOptions()
  rng = np.random.default_rng(options.seed)
  count = len(columns["row"])
  sample = np.sort(rng.choice(count, size=min(options.num_requests, count), replace=False))
  edges = stats.norm.ppf(CLASSES)
  draws = rng.random((len(sample), columns["is_ad"].shape[1]))
  total, number = np.zeros((len(edges) + 1, len(multipliers))), 0.0
  for fresh, rows, batch, shown in chunks_by_ads(system, take(columns, sample), options.requests_per_call):
    is_ad, valid = np.asarray(batch["is_ad"], bool), np.asarray(batch["candidates"]) >= 0
    ads, weight = audited_ads(shown, is_ad, valid, options.num_unshown, draws[rows])
    ads[fresh:], weight[fresh:] = -1, 0.0
    utility = _batch_utilities(system, rule, batch, ads, shading, np.asarray(multipliers), world, options)
    utility = weight[..., None] * np.where(ads[..., None] >= 0, utility, 0.0)
    value = at_items(np.asarray(batch["bid"], np.float64), ads, 1.0)
    place = np.digitize((np.log(np.maximum(value, 1e-30)) - value_location(batch, ads)) / options.sigma, edges)
    np.add.at(total, place, utility)
    number += weight.sum()
  return total / max(number, 1.0)


def _batch_utilities(system, rule, batch, ads, shading, multipliers, world, options):
  value = at_items(np.asarray(batch["bid"], np.float64), ads)
  reports = value[..., None] * multipliers
  curve = payments.absolute_nodes(batch, ads, max(getattr(rule, "num_nodes", 0), 2), options.sigma)
  nodes = np.sort(np.concatenate([curve, reports], -1), -1)
  others = shading * np.asarray(batch["bid"], np.float64)
  table = payments.sweep(system, batch, others, ads, nodes, options.profiles_per_call)
  price = payments.table_prices(rule, batch, others, table, options.profiles_per_call)
  x = table.x
  if world is not None:
    x = own_of(true_clicks(world, batch, table.payload)[0], table.payload.items, ads)
  index = payments.node_of(nodes[..., None, :], reports)
  return np.take_along_axis((value[..., None] - price) * x, index, -1)


def shading_equilibrium(setting, columns, world=None, options=None, *, multipliers=MULTIPLIERS, rounds=12):
  """Returns the ClassedEquilibrium of a system with its own payment rule, found on validation.

  RPM (c) is then `evaluate_system(*setting(g), test, world, shading=g)`, g = equilibrium.multiplier.

  Args: setting: g -> (system, rule) where all bid g * value: the same at every g, or at one ad load; columns, world,
    options: of `deviation_utilities`; multipliers: candidates for m; rounds: of best responses, at most.
  """
  known = {}

  def at(g):
    if g not in known:
      reports = np.unique(np.append(multipliers, g))
      known[g] = reports, deviation_utilities(*setting(g), columns, g, reports, world, options)
    return known[g]

  def utility(g, m):
    reports, found = at(g)
    return found.sum(0)[np.searchsorted(reports, m)]

  found = equilibrium.symmetric_shading_equilibrium(utility, multipliers, rounds=rounds)
  last = next(reversed(known))
  reports, by_class = known[last]
  base = by_class[:, np.searchsorted(reports, last)].sum()
  gain = by_class.max(-1).sum() / base - 1.0 if base > 0 else 0.0
  return ClassedEquilibrium(**vars(found), gain_by_value=float(gain))
