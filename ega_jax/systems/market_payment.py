"""Payments learned on any frozen allocation, from revenue and ex-post regret alone (EGA Eq. 25-26, 33-35).

What a network may see, and nothing else, sets the forms apart: "price" the ad's own-bid curve at fixed bids, the others
fixed (a learned menu); "critical" the others' bids and the list shown, as the price of a click, at most the own bid;
"rate", the paper's, the same without the others that are not shown, as a share of the own bid. No Myerson payment,
integral or threshold reaches the training (stages/market_payment.py).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax import types
from ega_jax.auction import regret as regret_lib
from ega_jax.models.payment import (
  CriticalInputs,
  CriticalNetwork,
  PriceNetwork,
  RateInputs,
  RateNetwork,
  menu_inputs,
)

FORMS = ("price", "critical", "rate")
BLOCK = 256  # profiles priced together


@dataclasses.dataclass(frozen=True)
class Options:
  """How a payment is learned."""

  form: str = "price"
  steps: int = 3000
  batch_size: int = 256  # tables, an ad of a profile each
  learning_rate: float = 2.4e-3
  profiles: int = 4096  # drawn for training, each a table per ad
  nodes: int = 64  # fixed own bids of a table
  values: int = 16  # true values drawn for a table
  multiplier: float = 100.0  # lambda_0
  multiplier_step: float = 0.1  # rho of Eq. 35, applied every step
  penalty: float = 1.0  # rho of Eq. 33
  seed: int = 0

  def __post_init__(self):
    if self.form not in FORMS:
      raise ValueError(f"form is {self.form!r}; allowed: {', '.join(FORMS)}")
    for name in ("steps", "batch_size", "profiles", "values"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
    if self.nodes < 3:
      raise ValueError(f"nodes is {self.nodes}; it must be at least 3")


@dataclasses.dataclass(frozen=True, eq=False)
class MarketPayment:
  """A mechanism (bids f[..., N] -> types.Outcome): what `allocation` shows, at the price that a network asks.

  Attributes:
    allocation: a mechanism, of which the click probabilities are used; "critical" and "rate" need its `shown_lists` and
      `lists`.
    distributions: one value distribution per ad.
    theta_of: function of lists i[P, K] -> click probabilities f[P, N]; for "critical" and "rate".
    options: Options. params: of the network. scale: money per unit that the network sees.
  """

  allocation: Any
  distributions: tuple
  theta_of: Any
  options: Options
  params: Any
  scale: float

  def shown_lists(self, bids):
    """Returns i[..., K]: the ads of the shown list in slot order, -1 padded."""
    return self.allocation.shown_lists(bids)

  def __call__(self, bids):
    """Returns the Outcome of bids f[..., N]; prices per click, at most the bid, 0 where not shown."""
    bids = np.asarray(bids, np.float64)
    flat = bids.reshape(-1, bids.shape[-1])
    x = np.asarray(self.allocation(flat).click_probability, np.float64)
    ads = np.broadcast_to(np.arange(flat.shape[1]), flat.shape)
    price = self._prices(flat, ads, flat[..., None], x[..., None])[..., 0]
    return types.Outcome(click_probability=x.reshape(bids.shape), price=price.reshape(bids.shape))

  def sweep(self, bids, ads, nodes):
    """Returns the CounterfactualTable, prices included, of moving one bid: bids f[B, N], ads i[B, A], nodes f[B, A, G].
    """
    table = regret_lib.counterfactual_table(self.allocation, bids, ads, nodes)
    return dataclasses.replace(table, price=self._prices(np.asarray(bids), np.asarray(ads), nodes, table.x))

  def _prices(self, bids, ads, nodes, x):
    """Returns per-click prices f64[B, A, G] of ads i[B, A] bidding nodes f[B, A, G], the others at bids f[B, N]."""
    found = np.zeros(x.shape)
    for start in range(0, len(bids), BLOCK):
      rows = np.minimum(np.arange(start, start + BLOCK), len(bids) - 1)  # one shape to compile
      inputs = table_inputs(self, bids[rows], ads[rows], nodes[rows], x[rows])
      own = jnp.asarray(nodes[rows] / self.scale, jnp.float32)
      price = _apply(self.options.form, self.params, inputs, own)
      found[start : start + BLOCK] = np.asarray(price, np.float64)[: len(bids) - start] * self.scale
    return np.where(x > 0, np.minimum(found, nodes), 0.0)


def network_of(form):
  """Returns the network of a form."""
  return {"price": PriceNetwork, "critical": CriticalNetwork, "rate": RateNetwork}[form]()


@functools.partial(jax.jit, static_argnames=("form",))
def _apply(form, params, inputs, own):
  return network_of(form).apply({"params": params}, inputs, own, straight_through=False)


def fixed_nodes(distribution, count):
  """Returns own bids f64[count] at which a curve is seen: 0, equally probable values, and twice the 99.9% quantile."""
  share = np.linspace(0.0, 0.999, count - 1)
  inside = np.maximum(np.asarray(distribution.quantile(share), np.float64), 0.0)
  return np.concatenate([[0.0], np.maximum(inside[1:], 1e-9), [2.0 * inside[-1]]])


def table_inputs(learned, bids, ads, nodes, x):
  """Returns the inputs [B, A] or [B, A, G] of a form's network, money divided by its scale.

  Args: learned: MarketPayment (its params are not read); bids f[B, N], the others'; ads i[B, A]; nodes f[B, A, G], own
    bids; x f[B, A, G], click probabilities at them.
  """
  form = learned.options.form
  if form == "price":
    fixed, weight = fixed_curves(learned.distributions, learned.options.nodes)
    at = np.maximum(ads, 0)
    curve = regret_lib.counterfactual_table(learned.allocation, bids, ads, fixed[at]).x
    return menu_inputs(*(jnp.asarray(a, jnp.float32) for a in (fixed[at] / learned.scale, curve, weight[at], x)))
  shape = nodes.shape
  moved, own = np.repeat(ads, shape[2], axis=1), nodes.reshape(len(bids), -1)
  profiles = regret_lib.with_own_bid(np.asarray(bids, np.float64), moved, own)
  lists = learned.allocation.shown_lists(profiles).reshape(-1, learned.allocation.lists.shape[-1])
  flat, mine = profiles.reshape(-1, profiles.shape[-1]) / learned.scale, moved.reshape(-1)
  others = np.where(np.arange(flat.shape[1]) == mine[:, None], 0.0, flat)
  take = lambda values: np.where(lists >= 0, np.take_along_axis(values, np.maximum(lists, 0), axis=1), 0.0)
  theta, is_own = take(learned.theta_of(lists)), lists == mine[:, None]
  slot = np.where(is_own.any(-1), is_own.argmax(-1), 0)
  back = lambda a, kind=np.float32: jnp.asarray(a.reshape(*shape, *a.shape[1:]), kind)
  if form == "rate":
    return RateInputs(back(take(others)), back(theta), back(slot, np.int32))
  return CriticalInputs(back(others), back(mine, np.int32), back(lists, np.int32), back(theta))


def fixed_curves(distributions, count):
  """Returns (nodes f64[N, M], weight f64[N, M]): fixed own bids of each ad, and how probable values round down to.

  distributions: one per ad; count: M.
  """
  nodes = np.stack([fixed_nodes(one, count) for one in distributions])
  below = np.stack([np.asarray(one.cdf(row), np.float64) for one, row in zip(distributions, nodes, strict=True)])
  below[:, 0] = 0.0  # everything that there is lies above 0
  return nodes, np.maximum(np.diff(below, axis=-1, append=1.0), 0.0) + 1e-12
