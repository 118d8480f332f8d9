"""The payment networks: the paper's rate of the own bid (EGA Eq. 25-26), and the price that can be incentive compatible
(our decision, the default).

Inside an allocation cell the incentive-compatible price is constant in the own bid, so a rate that multiplies the bid
would have to fall as 1 / b. And where an ad's threshold lies is decided by the lists that other bids would have brought
forth, of which the shown list says nothing. So the price form reads the ad's own-bid curve, the allocation re-run at
fixed bids: a function of the others' bids alone. The own bid enters through the click probability of what is shown.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ega_jax.auction.menu import isotonic_regression, menu_payment
from ega_jax.losses.lagrangian import cap_price, rate_price
from ega_jax.nn.linear import MLP, Dense
from ega_jax.types import Array, record

FORMS = ("price", "rate")


@record
class PriceInputs:
  """What the price form sees of one ad; money in units of the training logs' median bid."""

  nodes: Array  # f32[..., M]  absolute own bids, ascending from 0
  curve: Array  # f32[..., M]  click probability at each, the others' bids fixed
  weight: Array  # f32[..., M]  probability that the ad's value rounds down to each
  x: Array  # f32[..., G]  click probability in the shown list, of G own bids
  rising: Array  # f32[..., M]  the curve's isotonic regression, as a share of its highest value


@jax.jit
def menu_inputs(nodes, curve, weight, x):
  """Returns PriceInputs of its first four fields, nodes, curve, weight f32[..., M] and x f32[..., G]. The regression,
  which costs more than the network, is done once.
  """
  return PriceInputs(nodes, curve, weight, x, isotonic_regression(curve / _top(curve), weight + 1e-6))


def _top(curve):
  """Returns f[..., 1]: the highest click probability of a curve, and never 0."""
  return jnp.maximum(curve.max(-1, keepdims=True), 1e-9)


@record
class RateInputs:
  """What the paper's form sees of one ad in one list; money in units of the training logs' median bid."""

  bids: Array  # f32[..., K]  of the slots' ads, the own one and organic ones 0
  probability: Array  # f32[..., K]  Z * Theta, allocation (which carries the own bid) times click probability
  slot: Array  # i32[...]  of the ad, 0 where it is not shown (then nothing is due)


@record
class CriticalInputs:
  """What the critical price sees of one ad in one list; money in the unit of the bids' median."""

  others: Array  # f32[..., N]  every ad's bid, the own one 0
  ad: Array  # i32[...]  which ad is priced
  items: Array  # i32[..., K]  ads of the list in slot order, -1 for an empty slot
  theta: Array  # f32[..., K]  their click probabilities


class PriceNetwork(nn.Module):
  """A learned menu: convolutions over the own-bid curve correct its isotonic regression, and say where in an interval
  between nodes each step of it lies. Untrained it is that regression's menu with steps half-way."""

  channels: int = 16
  layers: int = 2
  reach: int = 3  # nodes seen to either side by a layer

  @nn.compact
  def __call__(self, inputs: PriceInputs, own_bid, *, straight_through=True):
    """Returns the price per click f[..., G] of own bids f[..., G], at most the bid, in the unit of the inputs.

    straight_through: of `cap_price`.
    """
    top = _top(inputs.curve)
    change, place = self._corrections(inputs.curve / top, inputs.rising, inputs.weight)
    level = jnp.clip(inputs.rising + change, 0.0, 1.0)
    width = jnp.diff(inputs.nodes, axis=-1, prepend=inputs.nodes[..., :1])
    bid = inputs.nodes - width * (1.0 - jax.nn.sigmoid(place))
    share = inputs.x / top
    price = menu_payment(level, bid, share) / jnp.maximum(share, 1e-9)
    return cap_price(price, own_bid, straight_through=straight_through)

  def _corrections(self, curve, rising, weight):
    """Returns (f[..., M], f[..., M]): what is added to the rising curve, and the logit of each step's place."""
    step = jnp.diff(curve, axis=-1, prepend=jnp.zeros_like(curve[..., :1]))
    place = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, curve.shape[-1]), curve.shape)
    x = jnp.stack([curve, rising, (curve - rising) * 10.0, step * 10.0, weight * 10.0, place], axis=-1)
    for i in range(self.layers):
      x = nn.gelu(Dense(self.channels, names=(None, None), name=f"layer_{i}")(_windows(x, self.reach)))
    # Zeros: training starts from the isotonic menu.
    out = Dense(2, names=(None, None), kernel_init=nn.initializers.zeros, name="head")(x)
    return out[..., 0], out[..., 1]


def _windows(x, reach):
  """Returns f[..., M, (2 reach + 1) d]: every row of x f[..., M, d] with its neighbours, zeros beyond the ends."""
  padded = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(reach, reach), (0, 0)])
  return jnp.concatenate([padded[..., i : i + x.shape[-2], :] for i in range(2 * reach + 1)], axis=-1)


class RateNetwork(nn.Module):
  """The paper's network: a share of the own bid from the slot, the others' bids and Z * Theta (EGA Eq. 25-26)."""

  widths: tuple = (128, 32, 10)

  @nn.compact
  def __call__(self, inputs: RateInputs, own_bid, *, straight_through=True):
    """Returns the price per click f[...] of own bids f[...], in the unit of the inputs; nothing is capped, so
    straight_through changes nothing.
    """
    del straight_through
    slot = jax.nn.one_hot(inputs.slot, inputs.bids.shape[-1], dtype=inputs.bids.dtype)
    columns = [slot, jnp.log1p(inputs.bids), inputs.probability * 10.0]
    logit = MLP((*self.widths, 1), name="mlp")(jnp.concatenate(columns, axis=-1))[..., 0]
    return rate_price(logit, own_bid)


class CriticalNetwork(nn.Module):
  """A price per click from the others' bids and the list shown, at most the own bid: the critical bid, where the
  allocation has one."""

  widths: tuple = (128, 32, 10)

  @nn.compact
  def __call__(self, inputs: CriticalInputs, own_bid, *, straight_through=True):
    """Returns the price per click f[...] of own bids f[...], in the unit of the inputs; straight_through: of
    `cap_price`.
    """
    num = inputs.others.shape[-1]
    lists = jax.nn.one_hot(inputs.items, num).reshape(*inputs.items.shape[:-1], -1)
    columns = [inputs.others, jax.nn.one_hot(inputs.ad, num), lists, inputs.theta * 10.0]
    price = nn.softplus(MLP((*self.widths, 1), name="mlp")(jnp.concatenate(columns, axis=-1))[..., 0])
    return cap_price(price, own_bid, straight_through=straight_through)


def payment_network(form):
  """Returns the network of a form, "price" or "rate". Raises ValueError for another."""
  if form not in FORMS:
    raise ValueError(f"payment is {form!r}; allowed: {FORMS}")
  return PriceNetwork() if form == "price" else RateNetwork()
