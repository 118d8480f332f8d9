"""Payment rules of generated lists: the learned one and the exact one over bid-free lists (EGA Sections 4.5 and 9)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.systems import generation
from ega_jax.systems.pricing import PaymentInputs, payment_inputs


def network_price(network, params, inputs: PaymentInputs, own_bid, bid_scale, *, straight_through=True):
  """Returns the price per click f32[...] of bids own_bid f32[...], at most the bid; money divided by bid_scale inside.

  The network's form "price": min(bid, network price), the bid not being seen; "rate": the paper's share of the bid.
  """
  slot = jax.nn.one_hot(inputs.slot, inputs.bids.shape[-1])
  bids = inputs.bids + slot * (own_bid / bid_scale)[..., None]  # the own bid caps or multiplies, and is not read
  extra = {"z": inputs.z} if network.config.payment == "rate" else {"pivot": inputs.pivot}
  price = network.apply(
    {"params": params}, inputs.theta, bids, inputs.is_ad, inputs.competitors, inputs.slot, **extra,
    straight_through=straight_through,
  )  # fmt: skip
  return price * bid_scale


@dataclasses.dataclass(frozen=True)
class Profiles:
  """Flattened own-bid profiles of a batch: which ad is moved to what, and the list shown then."""

  ads: np.ndarray  # i32[B, X]
  own: np.ndarray  # f32[B, X]
  items: np.ndarray  # i32[B, X, K]
  theta: np.ndarray  # f32[B, X, K]


def score_without(system, batch, bids, ads, slate):
  """Returns f32[B, X]: score(Y) of the list shown when the ad bids 0, slate being that list's [B, X, K]."""
  items, theta = np.asarray(slate.items), np.asarray(slate.click_probability)
  place = np.maximum(items, 0)
  others = np.where(items == ads[..., None], 0.0, _at(bids, place))
  worth = np.where(_at(batch["is_ad"], place), others, system.organic_weight)
  return np.where(items >= 0, worth * theta, 0.0).sum(-1).astype(np.float32)


def _at(row, index):
  flat = np.take_along_axis(np.asarray(row), index.reshape(len(index), -1), axis=1)
  return flat.reshape(index.shape)


def inputs_of(system, params, batch, bids, profiles: Profiles, without, with_z=False):
  """Returns PaymentInputs [B, X] of own-bid profiles, the other ads at bids f32[B, C]."""
  from ega_jax.auction.regret import with_own_bid

  changed = with_own_bid(np.asarray(bids, np.float32), profiles.ads, profiles.own.astype(np.float32))
  lists = generation.in_market(system.lists, params["market"], system.organic_scale)
  return payment_inputs(
    system.models, params, batch, jnp.asarray(changed), profiles.items, profiles.theta, profiles.ads, without, lists,
    jnp.float32(system.organic_weight), with_z,
  )  # fmt: skip


class LearnedPayment:
  """The payment network over a system's allocation: `price` for shown lists, `own_bid_price` for own-bid curves."""

  def __init__(self, name, system, network, params):
    self.name, self.system, self.network, self.params = name, system, network, params
    self._apply = jax.jit(
      lambda params, inputs, own: network_price(
        network, params["payment"]["network"], inputs, own, params["market"]["bid_scale"]
      )
    )

  def price(self, batch, bids, slate):
    """Returns f32[B, G, K] per click: every shown ad's price, the system run once more with each of them at bid 0."""
    columns = []
    for profile in range(np.shape(bids)[1]):
      row = np.asarray(bids)[:, profile].astype(np.float32)
      items = np.asarray(slate.items)[:, profile]
      theta = np.asarray(slate.click_probability)[:, profile]
      shown = (items >= 0) & _at(batch["is_ad"], np.maximum(items, 0))
      ads = np.where(shown, items, -1).astype(np.int32)
      nothing = np.zeros((*ads.shape, 1), np.float32)
      dropped = self.system.sweep(batch, row, ads, nothing)
      dropped = jax.tree.map(lambda leaf: leaf[:, :, 0], dropped)
      own = np.where(shown, _at(row, np.maximum(items, 0)), 0.0)
      repeat = lambda x, count=ads.shape[1]: np.repeat(x[:, None], count, axis=1)
      profiles = Profiles(ads, own, repeat(items), repeat(theta))
      price = self._prices(batch, row, profiles, score_without(self.system, batch, row, ads, dropped))
      columns.append(np.where(shown, price, 0.0))
    return np.stack(columns, axis=1)

  def own_bid_price(self, batch, bids, table):
    """Returns f32[B, A, G]: the moved ad's price at every node of a CounterfactualTable whose first node is 0."""
    num_requests, num_ads, num_nodes = table.nodes.shape
    first = jax.tree.map(lambda leaf: np.asarray(leaf)[:, :, 0], table.payload)
    without = score_without(self.system, batch, bids, np.asarray(table.ads), first)
    flat = lambda leaf: np.asarray(leaf).reshape(num_requests, num_ads * num_nodes, -1)
    profiles = Profiles(
      np.repeat(table.ads, num_nodes, axis=1), table.nodes.reshape(num_requests, -1),
      flat(table.payload.items), flat(table.payload.click_probability),
    )  # fmt: skip
    price = self._prices(batch, bids, profiles, np.repeat(without, num_nodes, axis=1))
    return np.where(table.x > 0, price.reshape(table.nodes.shape), 0.0)

  def _prices(self, batch, bids, profiles, without):
    inputs = inputs_of(self.system, self.params, batch, bids, profiles, without, self.network.config.payment == "rate")
    return np.asarray(self._apply(self.params, inputs, jnp.asarray(profiles.own, jnp.float32)))


class PivotPayment:
  """VCG over the range of bid-free lists: exactly truthful, P_i = max_A score(A; b_i = 0) - (score(A*) - b_i theta_i).

  For a system whose lists ignore bids (EGA Section 9; Nisan and Ronen 2007 on maximal-in-range mechanisms).
  """

  name = "vcg_range"

  def __init__(self, system):
    self.system = system

  def on(self, system):
    """Returns the same rule for another system."""
    return PivotPayment(system)

  def price(self, batch, bids, slate):
    """Returns f[B, G, K] per click."""
    prices = []
    for profile in range(np.shape(bids)[1]):
      row = np.asarray(bids)[:, profile].astype(np.float32)
      items = np.asarray(slate.items)[:, profile]
      theta = np.asarray(slate.click_probability)[:, profile]
      shown = (items >= 0) & _at(batch["is_ad"], np.maximum(items, 0))
      ads = np.where(shown, items, -1).astype(np.int32)
      dropped = self.system.sweep(batch, row, ads, np.zeros((*ads.shape, 1), np.float32))
      dropped = jax.tree.map(lambda leaf: leaf[:, :, 0], dropped)
      without = score_without(self.system, batch, row, ads, dropped)
      price = self._pivot(batch, row, ads, items[:, None], theta[:, None], without, theta)
      own = np.where(shown, _at(row, np.maximum(items, 0)), 0.0)
      prices.append(np.where(shown, np.minimum(price, own), 0.0))
    return np.stack(prices, axis=1)

  def own_bid_price(self, batch, bids, table):
    """Returns f[B, A, G] at every node of a table whose first node is 0."""
    first = jax.tree.map(lambda leaf: np.asarray(leaf)[:, :, 0], table.payload)
    without = score_without(self.system, batch, bids, np.asarray(table.ads), first)[..., None]
    items, theta = np.asarray(table.payload.items), np.asarray(table.payload.click_probability)
    price = self._pivot(batch, bids, np.asarray(table.ads)[..., None], items, theta, without, table.x)
    return np.where(table.x > 0, np.minimum(price, table.nodes), 0.0)

  def _pivot(self, batch, bids, ads, items, theta, without, own_theta):
    place = np.maximum(items, 0)
    others = np.where(items == np.asarray(ads)[..., None], 0.0, _at(bids, place))
    worth = np.where(_at(batch["is_ad"], place), others, self.system.organic_weight)
    rest = np.where(items >= 0, worth * theta, 0.0).sum(-1)
    safe = np.where(own_theta > 0, own_theta, 1.0)
    return np.where(own_theta > 0, np.maximum(without - rest, 0.0) / safe, 0.0)
