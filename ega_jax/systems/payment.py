"""Payment rules of generated lists: the learned one and the exact one over bid-free lists (EGA Eq. 25-26; ours).

Both price the shown ads of a list (`price`) and the moved ad of an own-bid curve (`own_bid_price`).
"""

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.models.payment import PriceNetwork
from ega_jax.systems.pricing import price_inputs, rate_inputs
from ega_jax.systems.rows import at_items
from ega_jax.types import Slate


def shown_ads(batch, slate, profile):
  """Returns (ads i32[B, K], Slate [B, K, 1, K]): the shown ads of a profile, -1 elsewhere, and the list for each."""
  items = np.asarray(slate.items)[:, profile]
  ads = np.where(at_items(batch["is_ad"], items, False), items, -1).astype(np.int32)
  repeat = lambda leaf: np.repeat(np.asarray(leaf)[:, profile, None, None], items.shape[1], axis=1)
  return ads, Slate(*(repeat(leaf) for leaf in vars(slate).values()))


class LearnedPayment:
  """A payment network over a system's allocation.

  Args: system: an EGASystem; network: of `models.payment`; params: with its parameters in ["payment"]["network"];
    num_nodes: fixed own bids at which the price form sees an ad's curve; sigma: log-sd of a value, known to the
    platform.
  """

  def __init__(self, name, system, network, params, *, num_nodes=41, sigma=0.6):
    self.name, self.system, self.network, self.num_nodes, self.sigma = name, system, network, num_nodes, sigma
    self.params, self.scale = params["payment"]["network"], float(params["market"]["bid_scale"])
    self._apply = jax.jit(lambda params, inputs, own: network.apply({"params": params}, inputs, own))

  @property
  def learned(self):
    """The learned arrays that a price reads."""
    return self.params

  def price(self, batch, bids, slate):
    """Returns f32[B, G, K] per click: every shown ad's price, 0 elsewhere, in a slate of bids f[B, G, C]."""
    columns = []
    for profile in range(np.shape(bids)[1]):
      row = np.asarray(bids)[:, profile].astype(np.float32)
      ads, shown = shown_ads(batch, slate, profile)
      x = np.where(ads >= 0, np.asarray(slate.click_probability)[:, profile], 0.0)
      price = self._prices(batch, row, ads, at_items(row, ads, 0.0)[..., None], x[..., None], shown)
      columns.append(np.where(ads >= 0, price[..., 0], 0.0))
    return np.stack(columns, axis=1)

  def own_bid_price(self, batch, bids, table):
    """Returns f32[B, A, G] per click: the moved ad's price at every node of a CounterfactualTable, the others at bids
    f[B, C].
    """
    price = self._prices(batch, bids, np.asarray(table.ads), table.nodes, table.x, table.payload, table)
    return np.where(np.asarray(table.x) > 0, price, 0.0)

  def _prices(self, batch, bids, ads, own_bids, x, slate, table=None):
    if isinstance(self.network, PriceNetwork):
      inputs = price_inputs(self.system, batch, bids, ads, x, self.num_nodes, self.sigma, table)
    else:
      inputs = rate_inputs(self.system, batch, bids, ads, own_bids, slate)
    return np.asarray(self._apply(self.params, inputs, jnp.asarray(own_bids / self.scale, jnp.float32))) * self.scale


class PivotPayment:
  """VCG over the range of bid-free lists: exactly truthful, P_i = max_A score(A; b_i = 0) - (score(A*) - b_i theta_i).

  For a system whose lists ignore bids (ours; Nisan and Ronen 2007 on maximal-in-range mechanisms).
  """

  name = "vcg_range"

  def __init__(self, system):
    if system.options.virtual or not system.options.bid_free:
      raise ValueError(f"vcg_range of {system.options}; allowed: bid_free=True, virtual=0 (it prices plain bids)")
    self.system = system

  def on(self, system):
    """Returns the same rule for another system."""
    return PivotPayment(system)

  def price(self, batch, bids, slate):
    """Returns f[B, G, K] per click: every shown ad's price, 0 elsewhere, in a slate of bids f[B, G, C]."""
    prices = []
    for profile in range(np.shape(bids)[1]):
      row = np.asarray(bids)[:, profile].astype(np.float32)
      ads, shown = shown_ads(batch, slate, profile)
      dropped = self.system.sweep(batch, row, ads, np.zeros((*ads.shape, 1), np.float32))
      own_theta = np.where(ads >= 0, np.asarray(slate.click_probability)[:, profile], 0.0)[..., None]
      price = self._pivot(batch, row, ads, shown, dropped, own_theta)[..., 0]
      prices.append(np.where(ads >= 0, np.minimum(price, at_items(row, ads, 0.0)), 0.0))
    return np.stack(prices, axis=1)

  def own_bid_price(self, batch, bids, table):
    """Returns f[B, A, G] per click at every node of a table whose first node is 0, the others at bids f[B, C]."""
    dropped = jax.tree.map(lambda leaf: np.asarray(leaf)[:, :, :1], table.payload)
    price = self._pivot(batch, bids, np.asarray(table.ads), table.payload, dropped, table.x)
    return np.where(table.x > 0, np.minimum(price, table.nodes), 0.0)

  def _pivot(self, batch, bids, ads, slate, dropped, own_theta):
    """Returns f[B, A, G]: (the score without the ad - the others' in the list shown) / theta, at least 0."""
    without = self._others(batch, bids, ads, dropped)
    others = self._others(batch, bids, ads, slate)
    safe = np.where(own_theta > 0, own_theta, 1.0)
    return np.where(own_theta > 0, np.maximum(without - others, 0.0) / safe, 0.0)

  def _others(self, batch, bids, ads, slate):
    """Returns f[B, A, G]: score(Y) of the lists of slates [B, A, G, K] without the moved ad's own part."""
    items = np.asarray(slate.items)
    paid = np.where(items == np.asarray(ads)[..., None, None], 0.0, at_items(bids, items, 0.0))
    ad = at_items(batch["is_ad"], items, False)
    worth = self.system.objective.worth(np.asarray(slate.click_probability), paid, ad)
    return np.where(items >= 0, worth, 0.0).sum(-1)
