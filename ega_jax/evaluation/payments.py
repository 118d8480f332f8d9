"""Payment rules for generated lists, and own-bid tables of a system that carry their prices.

A rule has `name` and `price(batch, bids f[B, G, C], slate) -> f[B, G, K]`, per click, 0 for organic items. A rule that
can price a whole own-bid curve faster also has `own_bid_price(batch, bids f[B, C], table) -> f[B, A, G]`, table being a
CounterfactualTable whose first node is 0; if it needs the shape of the curve, `num_nodes` says how many absolute nodes.
"""

import numpy as np

from ega_jax.auction import mechanisms, regret
from ega_jax.systems.pricing import value_location, value_nodes
from ega_jax.systems.rows import at_items, own_of

SIGMA = 0.6  # log-sd of a value per click given the request: the marketplace's, known to the platform


class FirstPrice:
  """Every ad pays its bid: individually rational, and anything but incentive compatible."""

  name = "first_price"

  def price(self, batch, bids, slate):
    """Returns the own bids at ads, f[B, G, K]."""
    items = np.asarray(slate.items)
    own = np.take_along_axis(np.asarray(bids), np.maximum(items, 0), axis=-1)
    return np.where((items >= 0) & at_items(batch["is_ad"], items, False), own, 0.0)


class Free:
  """Nobody pays: the truthful payment of an allocation that does not look at bids."""

  name = "free"

  def on(self, system):
    """Returns itself: it is the same for every system."""
    del system
    return self

  def price(self, batch, bids, slate):
    """Returns zeros f[B, G, K]."""
    return np.zeros(np.shape(slate.items))


class TablePayment:
  """A rule on the own-bid curve: re-runs the allocation at every node for every shown ad, then reads the price.

  The price is exact up to the width of a node at the jumps of the curve, which `refinements` bisects.

  Args: system: whose allocation is re-run; rule: CounterfactualTable -> per-click price f[B, A, G]; num_nodes: absolute
    nodes per curve, to which the own bid is added; refinements: bisections, at the two most doubtful jumps each; sigma:
    log-sd of values, by which the nodes are set; profiles_per_call: profiles allocated at once.
  """

  def __init__(self, name, system, rule, *, num_nodes=41, refinements=6, sigma=SIGMA, profiles_per_call=256):
    self.name = name
    self.system = system
    self.rule = rule
    self.num_nodes = num_nodes
    self.refinements = refinements
    self.sigma = sigma
    self.profiles_per_call = profiles_per_call

  def on(self, system):
    """Returns the same rule over another system's allocation."""
    return TablePayment(
      self.name, system, self.rule, num_nodes=self.num_nodes, refinements=self.refinements, sigma=self.sigma,
      profiles_per_call=self.profiles_per_call,
    )  # fmt: skip

  def price(self, batch, bids, slate):
    """Returns f[B, G, K] per click: the rule's price of each ad shown in a slate of bids f[B, G, C], one table per
    profile; 0 elsewhere.
    """
    items, bids = np.asarray(slate.items), np.asarray(bids, np.float64)
    ads = np.where((items >= 0) & at_items(batch["is_ad"], items, False), items, -1)
    prices = []
    for profile in range(bids.shape[1]):
      own = at_items(bids[:, profile], ads[:, profile])
      grid = absolute_nodes(batch, ads[:, profile], self.num_nodes, self.sigma)
      nodes = np.sort(np.concatenate([grid, own[..., None]], -1), -1)
      sweeper = Sweeper(self.system, batch, self.profiles_per_call)
      table = sweeper.table(bids[:, profile], ads[:, profile], nodes, self.refinements)
      prices.append(regret.take_node(self.rule(table), node_of(table.nodes, own)))
    return np.where(ads >= 0, np.stack(prices, 1), 0.0)

  def own_bid_price(self, batch, bids, table):
    """Returns f[B, A, G] per click: the rule at every node of the table, which knows all that batch and bids say."""
    return self.rule(table)


def myerson(system, **options):
  """Returns the TablePayment of the clipped Myerson integral: truthful on the nodes where the curve never falls."""
  return TablePayment("myerson", system, lambda table: regret.myerson_integral(table).price, **options)


def slot_threshold(system, **options):
  """Returns the TablePayment that is GSP for any allocation: the least own bid that keeps the slot or a better one."""

  def rule(table):
    slot = regret.own_slot(table.payload.items, table.ads)
    return mechanisms.slot_threshold_gsp(table.nodes, slot, table.x)

  return TablePayment("gsp", system, rule, **options)


def absolute_nodes(batch, ads, num_nodes, sigma=SIGMA):
  """Returns own bids f64[B, A, num_nodes] of `value_nodes`, one grid per ad of ads i[B, A]; batch: request columns."""
  return value_nodes(value_location(batch, ads), sigma, num_nodes)


def node_of(nodes, bids):
  """Returns the index i[...] of each bid f[...] among its own nodes f[..., G], of which it is one."""
  return np.abs(np.asarray(nodes) - np.asarray(bids)[..., None]).argmin(-1)


def sweep(system, batch, bids, ads, nodes, profiles_per_call=256):
  """Returns the CounterfactualTable of a system, its slates [B, A, G, K] as payload. Arguments as in `Sweeper`."""
  return Sweeper(system, batch, profiles_per_call).sweep(bids, ads, nodes)


class Sweeper:
  """A system on one batch as auction.regret takes it: an object with `sweep(bids, ads, nodes)`.

  A system with a method `sweep(batch, bids f[B, C], ads i[B, A], nodes f[B, A, G]) -> types.Slate of [B, A, G, K]` (one
  that shares prefixes between the profiles) is asked for the slates. Another allocates every profile, profiles_per_call
  at once.
  """

  def __init__(self, system, batch, profiles_per_call=256):
    self.system, self.batch, self.profiles_per_call = system, batch, profiles_per_call

  def sweep(self, bids, ads, nodes):
    """Returns the CounterfactualTable of the batch's requests."""
    if not hasattr(self.system, "sweep"):
      allocate = lambda profiles: self.system.allocate(self.batch, profiles)
      return regret.counterfactual_table(allocate, bids, ads, nodes, chunk=self.profiles_per_call)
    slate = self.system.sweep(self.batch, bids, ads, nodes)
    x = own_of(slate.click_probability, slate.items, ads)
    return regret.CounterfactualTable(nodes=nodes, x=x, ads=ads, payload=slate)

  def table(self, bids, ads, nodes, refinements=0, splits=2):
    """Returns the table over sorted nodes and refinements * splits more per curve, where it jumps."""
    table = self.sweep(bids, ads, nodes)
    return regret.refine_table(self, bids, table, rounds=refinements, splits=splits) if refinements else table


def table_prices(rule, batch, bids, table, profiles_per_call=256):
  """Returns f[B, A, G] per click: the price that `rule` asks of the moved ad at every node, others at bids f[B, C].

  Args: batch: request columns; table: a CounterfactualTable with slates as payload; profiles_per_call: profiles priced
    at once, where the rule prices no curves.
  """
  if hasattr(rule, "own_bid_price"):
    return np.asarray(rule.own_bid_price(batch, bids, table))
  num_requests, num_ads, num_nodes = table.nodes.shape
  profiles = num_ads * num_nodes
  flat = lambda leaf: np.asarray(leaf).reshape(num_requests, profiles, -1)
  slate = type(table.payload)(*(flat(leaf) for leaf in vars(table.payload).values()))
  ads, nodes = np.repeat(table.ads, num_nodes, axis=1), table.nodes.reshape(num_requests, profiles)
  prices = []
  for start in range(0, profiles, profiles_per_call):
    part = slice(start, start + profiles_per_call)
    changed = regret.with_own_bid(np.asarray(bids), ads[:, part], nodes[:, part])
    some = type(slate)(*(leaf[:, part] for leaf in vars(slate).values()))
    prices.append(np.asarray(rule.price(batch, changed, some)))
  by_slot = np.concatenate(prices, 1).reshape(*table.nodes.shape, -1)
  return own_of(by_slot, table.payload.items, table.ads)
