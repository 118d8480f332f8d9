"""How choices are made on validation without the world: a second reward model, cross-checked by counterfactual logs."""

import dataclasses

import numpy as np

from ega_jax.systems.rows import at_items


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A self-normalised inverse-propensity estimate."""

  value: float  # mean reward per slot
  standard_error: float  # delta method, requests as units
  matched: int  # (request, slot) pairs where the slate and the log agree
  effective_size: float  # (sum w)^2 / sum w^2 over those pairs


def snips(logs, items, creatives, reward, *, match_creative=True):
  """Returns the Estimate of the mean reward per slot that a deterministic slate would have earned.

  Self-normalised IPS (Swaminathan and Joachims 2015) at item-position level (Li et al. 2018): sum w r / sum w with
  w = 1[the log shows this item with this creative at this position] / propensity, over the exploration share only (a
  deterministic request cannot speak for another slate). The logged propensity is that of the step given the slots
  above it, so what is estimated is the item at its position under the logging policy's neighbours: externalities are
  not carried over, which is why this only cross-checks.

  Args: logs: shown_item, shown_creative, shown_propensity [n, K], explored bool[n]; items, creatives i[n, K] of the
    slate; reward f[n, K] observed at the logged slots (a click, or a click times a bid); match_creative=False: any
    creative matches, and the estimate is that of the item under a creative drawn evenly.
  """
  explored = np.asarray(logs["explored"], bool)
  agree = (np.asarray(logs["shown_item"]) == items) & (np.asarray(items) >= 0) & explored[:, None]
  if match_creative:
    agree &= np.asarray(logs["shown_creative"]) == creatives
  weight = np.where(agree, 1 / np.maximum(np.asarray(logs["shown_propensity"], np.float64), 1e-9), 0.0)
  total = weight.sum()
  if total <= 0:
    return Estimate(float("nan"), float("nan"), 0, 0.0)
  value = (weight * reward).sum() / total
  residual = (weight * (reward - value)).sum(-1)
  error = np.sqrt((residual**2).sum()) / total
  return Estimate(float(value), float(error), int(agree.sum()), float(total**2 / (weight**2).sum()))


def score_reward(logs, objective):
  """Returns f64[n, K], the observed summands of score(Y): click * bid - slot_price of ads, click * organic_weight of
  organic items.
  """
  shown, click = np.asarray(logs["shown_item"]), np.asarray(logs["click"], np.float64)
  worth = objective.worth(click, at_items(logs["bid"], shown), at_items(logs["is_ad"], shown, False))
  return np.where(shown >= 0, worth, 0.0)


def request_scores(totals, objective):
  """Returns f64[n]: score(Y) of each request under the evaluator `model`, sum_ads (v x - slot_price) + organic_weight *
  organic clicks.

  For a choice on validation, `totals` comes from `evaluate_system(..., theta_model=<a second reward model fitted on
  held-back logs>)`: neither the system's own belief nor the world ever scores a choice (our decision).
  """
  ads = objective.slot_price * totals["ad_impressions"]
  return totals["model/welfare"] - ads + objective.organic_weight * totals["model/organic_clicks"]


def cross_checked_choice(options):
  """Returns dict(best, snips_best, agrees): the option with the best score, and whether the logs object to it.

  The logs object when the chosen option's SNIPS estimate is below the best one's by over two standard errors of the
  difference. Args: options: {name: (mean of `request_scores`, Estimate)}. Raises: ValueError if empty.
  """
  if not options:
    raise ValueError("options is empty; at least one {name: (score, Estimate)} is needed")
  best = max(options, key=lambda name: options[name][0])
  known = [name for name in options if np.isfinite(options[name][1].value)]
  if best not in known:
    return {"best": best, "snips_best": None, "agrees": None}
  top = max(known, key=lambda name: options[name][1].value)
  first, second = options[top][1], options[best][1]
  gap = first.value - second.value
  noise = 2 * np.hypot(first.standard_error, second.standard_error)
  return {"best": best, "snips_best": top, "agrees": bool(gap <= noise)}
