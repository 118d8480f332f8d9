"""The payment network (EGA Eq. 25-26) and the price form that can be incentive compatible (our decision, the default).

Inside an allocation cell the incentive-compatible price is constant in the own bid, so a rate that multiplies the bid
would have to fall as 1 / b. The price form therefore never reads the own bid, nor anything computed from it except the
shown list; the rate form is the paper's.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from ega_jax.losses.lagrangian import cap_price, rate_price
from ega_jax.nn.linear import MLP

NUM_COMPETITORS = 10
FORMS = ("price", "rate")


@dataclasses.dataclass(frozen=True)
class PaymentConfig:
  """The form of the payment and the unit of money."""

  payment: str = "price"
  money_scale: float = 1.0  # median bid of the training logs: a constant, never a statistic of the request
  widths: tuple = (128, 32, 10)

  def __post_init__(self):
    if self.payment not in FORMS:
      raise ValueError(f"payment is {self.payment!r}; allowed: {FORMS}")
    if not self.money_scale > 0:
      raise ValueError(f"money_scale is {self.money_scale}; allowed: a positive number")


def top_competitors(bids, click_rate, eligible, count=NUM_COMPETITORS):
  """Returns f[..., count, 2]: (bid, click rate) of the unshown ads of largest product, largest first, 0 padded.

  Args: bids, click_rate f[..., N] (click rates that no bid enters); eligible bool[..., N]: ads that are not shown.
  Being sorted, the result does not depend on the order of the candidates.
  """
  score = jnp.where(eligible, bids * click_rate, -1.0)
  size = min(count, score.shape[-1])
  top, index = jax.lax.top_k(score, size)
  pairs = jnp.stack([jnp.take_along_axis(x, index, axis=-1) for x in (bids, click_rate)], axis=-1)
  pairs = jnp.where((top >= 0)[..., None], pairs, 0.0)
  return jnp.concatenate([pairs, jnp.zeros((*pairs.shape[:-2], count - size, 2), pairs.dtype)], axis=-2)


class PaymentNetwork(nn.Module):
  """Returns the price per click [...] of the ad at `own`, at most its bid.

  Vectorised over any leading axes (request, ad, own-bid node). Slots are told apart (their order is the list's order);
  competitors come sorted by bid times click rate, so the order of the candidates is not seen.
  """

  config: PaymentConfig

  @nn.compact
  def __call__(self, theta, bids, is_ad, competitors, own, z=None, pivot=None, *, straight_through=True):
    """Returns f[...]: min(own bid, price), straight-through at the cap ("price"), or rate times own bid ("rate").

    Args: theta f[..., K] click probabilities in the list; bids f[..., K], whose own entry only caps or multiplies;
    is_ad bool[..., K]; competitors f[..., 10, 2]; own i32[...] the ad's slot; z f[..., K] allocation probabilities
    ("rate" only); pivot f[...]: what the ad's presence costs the others, per own click ("price" only; None: 0), a
    function of the others' bids and the list: where the price starts from.
    straight_through: see `cap_price`; False at misreports.
    Raises: ValueError if z is missing for "rate" or given for "price", into which it would carry the own bid.
    """
    if (z is None) != (self.config.payment == "price"):
      given = "missing" if z is None else "given"
      raise ValueError(f"z is {given} for payment {self.config.payment!r}; allowed: given for 'rate' only")
    slot = jax.nn.one_hot(own, theta.shape[-1], dtype=theta.dtype)
    own_bid = jnp.sum(jnp.where(slot > 0, bids, 0.0), axis=-1)
    others = jnp.where(slot > 0, 0.0, bids)
    if self.config.payment == "rate":
      return rate_price(self._rate_logit(others, z * theta, slot), own_bid)
    price = self._price(theta, others, is_ad, competitors, slot, pivot)
    return cap_price(price, own_bid, straight_through=straight_through)

  def _mlp(self, columns):
    out = MLP((*self.config.widths, 1), name="mlp")(jnp.concatenate(columns, axis=-1))
    return out[..., 0]

  def _rate_logit(self, others, probability, slot):
    """Returns f[...]: the paper's inputs, S* as the own slot, B^- and Z * Theta (EGA Eq. 25)."""
    return self._mlp([slot, jnp.log1p(others / self.config.money_scale), probability * 10.0])

  def _price(self, theta, others, is_ad, competitors, slot, pivot):
    """Returns f[...] > 0: a price from everything but the own bid."""
    scale = self.config.money_scale
    own_theta = jnp.maximum(jnp.sum(slot * theta, axis=-1, keepdims=True), 1e-6)
    bid, rate = competitors[..., 0], competitors[..., 1]
    # What another ad earns per own click is the unit in which thresholds are set (as in GSP: b_j theta_j / theta_i).
    columns = [
      slot, is_ad.astype(theta.dtype), _log_rate(theta), _log_rate(own_theta), jnp.log1p(others / scale),
      jnp.log1p(others * theta / own_theta / scale), jnp.log1p(bid / scale), _log_rate(rate),
      jnp.log1p(bid * rate / own_theta / scale),
    ]
    if pivot is None:
      return nn.softplus(self._mlp(columns)) * scale
    start = pivot / scale
    columns += [jnp.log1p(start)[..., None], _log_rate(start)[..., None]]
    # softplus(log(expm1(s)) + d): d multiplies small prices and adds to large ones; d = 0 is the pivot itself.
    raw = jnp.maximum(start, 1e-4)
    inverse = raw + jnp.log(-jnp.expm1(-raw))
    return nn.softplus(inverse + self._mlp(columns)) * scale


def _log_rate(theta):
  """Returns log(1 + 100 theta): click rates of per cents on a scale of about 1, finite at 0."""
  return jnp.log1p(100.0 * theta)
