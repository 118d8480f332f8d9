"""Everything the report says about one system with one payment rule, in one call."""

import dataclasses

from ega_jax.evaluation import audit, equilibrium
from ega_jax.evaluation.systems import evaluate_system


@dataclasses.dataclass(frozen=True)
class Assessment:
  """One system under one seed, ready for `report.comparison`: totals go into `runs`, figures into `extra`."""

  totals: dict  # per request, truthful bids (systems.evaluate_system)
  figures: dict  # {figure: float or "none"}: "audit/...", "shading", "residual_gain", "true/rpm_equilibrium", ...
  curves: list  # own-bid curves for the report
  scatter: dict  # {"myerson", "own"}: payments of the audited shown ads


def assess(
  system, rule, validation, test, world=None, *, theta_model=None, auditing=None, shading=None, chunk_size=64
) -> Assessment:
  """Returns the Assessment of a system on the columns `test`; its shading equilibrium is found on `validation`.

  Args:
    system, rule: see systems.py and payments.py.
    validation, test: dicts of request columns [n, ...].
    world: the truth; None: everything by the model alone.
    theta_model: the evaluator `model`; None: the system's own belief.
    auditing: AuditOptions. shading: EquilibriumOptions; None for either: the defaults; False: left out.
    chunk_size: requests evaluated at once.
  """
  totals = evaluate_system(system, rule, test, world, theta_model, chunk_size=chunk_size)
  figures, curves, scatter = {}, [], {}
  if auditing is not False:
    found = audit.audit_system(system, rule, test, world, auditing)
    figures = {f"audit/{name}": value for name, value in audit.audit_figures(found, auditing).items()}
    curves, scatter = audit.example_curves(found), audit.payment_scatter(found)
  if shading is not False:
    figures |= equilibrium.equilibrium_figures(
      system, rule, validation, test, world, shading, theta_model=theta_model, chunk_size=chunk_size
    )
  return Assessment(totals, figures, curves, scatter)
