"""Choices on validation: what the judge says of systems at equal ad load, cross-checked by the exploration logs."""

import dataclasses

import numpy as np

from ega_jax.evaluation import bootstrap, market, payments, snips
from ega_jax.evaluation.systems import evaluate_system
from ega_jax.stages.batches import LIST

FIGURES = ("ad_share", "model/welfare", "model/clicks", "model/organic_clicks", "model/rpm_surplus")
LOGS = (*LIST, "shown_propensity", "explored")


def judged(system, columns, judge, objective, *, sigma, chunk):
  """Returns {"totals": of `evaluate_system` with a "score" per request, "snips": Estimate, "clicks": Estimate}.

  Nothing of the world is read: clicks are the judge's, and the logs' own on the exploration share.

  Args:
    system: at the ad load of the comparison; its own objective plays no part. objective: of the market, the score(Y)
      by which options are compared; at equal ad load its slot price is a constant and should be 0.
    columns: REQUEST, "row" and LOGS of validation requests.
    judge: (batch, slate) -> predictions of a reward model of held-back logs.
  """
  recorded = _Recorded(system)
  totals = evaluate_system(recorded, payments.Free(), columns, theta_model=judge, sigma=sigma, chunk_size=chunk)
  totals["score"] = snips.request_scores(totals, objective)
  positions, creatives = (np.concatenate(leaves)[:, 0] for leaves in zip(*recorded.shown, strict=True))
  estimate = lambda reward: snips.snips(columns, positions, creatives, reward, match_creative=False)
  return {
    "totals": totals,
    "snips": estimate(snips.score_reward(columns, objective)),
    "clicks": estimate(np.asarray(columns["click"], np.float64)),
  }


class _Recorded:
  """A system whose slates are remembered."""

  def __init__(self, system):
    self.system, self.shown = system, []

  def allocate(self, batch, bids):
    slate = self.system.allocate(batch, bids)
    self.shown.append((np.asarray(slate.items), np.asarray(slate.creatives)))
    return slate


def choice(options):
  """Returns {"best", "snips_best", "agrees", "options": {name: figures}} of {name: `judged`}.

  The best has the greatest mean score; "lead" of every option is its mean score less the best one's, with the paired
  user-clustered bootstrap interval: an option whose interval reaches 0 is not told apart from the best.

  Raises: ValueError without options.
  """
  scores = {name: (float(one["totals"]["score"].mean()), one["snips"]) for name, one in options.items()}
  verdict = snips.cross_checked_choice(scores)
  best = options[verdict["best"]]["totals"]
  return verdict | {"options": {name: _figures(one, best) for name, one in options.items()}}


def _figures(option, best):
  totals = option["totals"]
  part = lambda some: (1.0, some["score"], some["requests"])
  lead = bootstrap.paired_difference(part(totals), part(best), totals["user"])
  sums = {name: totals[name].sum() / totals["requests"].sum() for name in ("score", "model/organic_clicks")}
  figures = sums | {name: value for name, value in market.summarise(totals).items() if name in FIGURES}
  estimates = {name: dataclasses.asdict(option[name]) for name in ("snips", "clicks")}
  return figures | {"lead": [lead.value, lead.low, lead.high]} | estimates
