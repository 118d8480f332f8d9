"""Binary cross-entropy of the reward model on logged lists (EGA Eq. 30)."""

import jax
import jax.numpy as jnp

from ega_jax.losses.masking import broadcast_mask, masked_sum, safe


def binary_cross_entropy(logits, labels, *, where=None):
  """Returns (sum, weight): -y log p - (1 - y) log(1 - p), p = sigmoid(logits), of labels [...] in [0, 1]."""
  logits, labels = safe(logits, where), safe(jnp.asarray(labels, jnp.float32), where)
  return masked_sum(jax.nn.softplus(logits) - labels * logits, where)


def list_click_loss(logits, labels, *, where=None, weights=None):
  """Returns (sum, weight, metrics): EGA Eq. 30, the heads' cross-entropies added up, per shown item.

  Args: logits and labels: dicts of [B, U, K] or [B, K] by head ("poi", "creative", "conversion"); where: bool, a prefix
  of that shape; weights: factor per head (1 if None). Every head is a marginal probability, also where the POI was not
  clicked (our decision: the marketplace's evaluators need marginals).
  Raises: ValueError if a head has no labels.
  """
  total, weight, metrics = 0.0, 0.0, {}
  for name, head in logits.items():
    if name not in labels:
      raise ValueError(f"labels lack head {name!r}; they have {sorted(labels)}")
    factor = 1.0 if weights is None else weights.get(name, 1.0)
    head_sum, weight = binary_cross_entropy(head, labels[name], where=where)
    total = total + factor * head_sum
    metrics[f"{name}_log_loss"] = (head_sum, weight)
    predicted, _ = masked_sum(jax.nn.sigmoid(safe(head, where)), where)
    observed, _ = masked_sum(jnp.asarray(labels[name], jnp.float32), broadcast_mask(where, head.shape))
    metrics[f"{name}_predicted_over_observed"] = (predicted, observed)
  return total, weight, metrics


def members_click_loss(logits, labels, where):
  """Returns (sum, weight, metrics) of `list_click_loss` per shown item, averaged over the members of an ensemble.

  Args: logits: dict of [members, B, K]; labels: dict of [B, K]; where: bool[B, K]. Every member fits all labels by
  itself: the mean of the members is never fitted, or they would make up for each other.
  """
  members = next(iter(logits.values())).shape[0]
  every = lambda x: jnp.broadcast_to(x, (members, *x.shape))
  total, weight, metrics = list_click_loss(logits, {name: every(x) for name, x in labels.items()}, where=every(where))
  return total / members, weight / members, metrics
