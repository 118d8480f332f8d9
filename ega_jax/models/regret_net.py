"""Auctions as networks: bids of n additive bidders for m items -> allocation and payments, feasible and individually
rational by construction (Duetting et al., "Optimal Auctions through Deep Learning", section 4.1).

A softmax over bidders and "nobody" allocates each item at most once; a payment is a share of what the allocation is
worth at the bids.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ega_jax.nn.linear import Dense

NETWORKS = ("regret_net", "exchangeable")


class RegretNet(nn.Module):
  """Two multi-layer perceptrons over all bids: of the allocation, and of the payments."""

  bidders: int
  items: int
  hidden: int = 100
  layers: int = 2

  @nn.compact
  def __call__(self, bids):
    """Returns (allocation f[..., n, m], payments f[..., n]) of bids f[..., n, m]."""
    flat = bids.reshape(*bids.shape[:-2], self.bidders * self.items)
    logits = self._mlp(flat, (self.bidders + 1) * self.items, "allocation")
    share = self._mlp(flat, self.bidders, "payment")
    return outcome(logits.reshape(*logits.shape[:-1], self.bidders + 1, self.items), share, bids)

  def _mlp(self, x, features, name):
    for i in range(self.layers):
      x = jnp.tanh(Dense(self.hidden, names=(None, None), name=f"{name}_{i}")(x))
    return Dense(features, names=(None, None), name=f"{name}_out")(x)


class ExchangeableNet(nn.Module):
  """The same for bidders and items that are alike: every layer sees an entry of the bid matrix, the means of its row
  and of its column, and the mean of all (Rahme et al. 2021, "A Permutation-Equivariant Neural Network Architecture For
  Auction Design"). Renaming bidders or items renames the outcome."""

  hidden: int = 32
  layers: int = 3

  @nn.compact
  def __call__(self, bids):
    """Returns (allocation f[..., n, m], payments f[..., n]) of bids f[..., n, m]."""
    x = bids[..., None]
    for i in range(self.layers):
      x = jnp.tanh(_exchange(x, self.hidden, f"layer_{i}"))
    # Nobody's logit is a function of the item alone, a payment's of the bidder.
    logits = _exchange(x, 1, "allocation")[..., 0]
    nobody = Dense(1, names=(None, None), name="nobody")(x.mean(-3))[..., 0]
    share = Dense(1, names=(None, None), name="payment")(x.mean(-2))[..., 0]
    return outcome(jnp.concatenate([logits, nobody[..., None, :]], axis=-2), share, bids)


def _exchange(x, features, name):
  """Returns an equivariant linear map f[..., n, m, features] of x f[..., n, m, d]."""
  dense = lambda part, kind: Dense(features, names=(None, None), use_bias=kind == "entry", name=f"{name}_{kind}")(part)
  rows, columns = x.mean(-2, keepdims=True), x.mean(-3, keepdims=True)
  return dense(x, "entry") + dense(rows, "row") + dense(columns, "column") + dense(rows.mean(-3, keepdims=True), "all")


def outcome(logits, share, bids):
  """Returns (allocation f[..., n, m], payments f[..., n]) of logits f[..., n + 1, m], the last row nobody's, and of
  shares' logits f[..., n] at bids f[..., n, m]."""
  allocation = jax.nn.softmax(logits, axis=-2)[..., :-1, :]
  return allocation, jax.nn.sigmoid(share) * (allocation * bids).sum(-1)


def regret_network(name, bidders, items, hidden, layers):
  """Returns the network of a name of NETWORKS, of `layers` layers of `hidden` units.

  bidders, items: n and m of a "regret_net"; an "exchangeable" one takes any n and m. Raises ValueError for another
  name.
  """
  if name not in NETWORKS:
    raise ValueError(f"network is {name!r}; allowed: {', '.join(NETWORKS)}")
  sizes = {"hidden": hidden, "layers": layers}
  return RegretNet(bidders, items, **sizes) if name == "regret_net" else ExchangeableNet(**sizes)
