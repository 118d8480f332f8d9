"""Losses as pure functions of arrays; each returns (sum, weight, metrics) and is divided once, over all devices."""

from ega_jax.losses.generation import code_loss, multi_token_loss, next_token_loss, sequence_loss
from ega_jax.losses.lagrangian import (
  ascend,
  budgeted_loss,
  budgeted_multiplier,
  cap_price,
  payment_loss,
  rate_price,
  table_regret,
)
from ega_jax.losses.masking import masked_sum
from ega_jax.losses.policy import leave_one_out, marginal_contribution, policy_gradient_loss
from ega_jax.losses.quantization import rq_vae_loss
from ega_jax.losses.reward import binary_cross_entropy, list_click_loss, members_click_loss

__all__ = [
  "ascend",
  "binary_cross_entropy",
  "budgeted_loss",
  "budgeted_multiplier",
  "cap_price",
  "code_loss",
  "leave_one_out",
  "list_click_loss",
  "marginal_contribution",
  "masked_sum",
  "members_click_loss",
  "multi_token_loss",
  "next_token_loss",
  "payment_loss",
  "policy_gradient_loss",
  "rate_price",
  "rq_vae_loss",
  "sequence_loss",
  "table_regret",
]
