"""Payments and incentives of one system of the comparison: revenue, audit, shading equilibria."""

from ega_jax.evaluation import audit, audit_views, equilibrium, payments, report
from ega_jax.evaluation.systems import evaluate_system


def assess(entry, config, world, believe, equal, samples, lap=lambda part: None):
  """Returns (figures, {sample: totals of `evaluate_system`}) of a row's payments.

  Args:
    entry: of the line-up, at its ad load. config: the experiment's. world: World. equal: EqualLoad.
    samples: {"validation", "priced"}: request columns.
    believe: (batch, slate) -> predictions of the one reward model by which every system is judged as `model`.
    lap: told when "pricing", "audit" and "equilibria" are done.
  """
  options, chunk, priced = config.evaluation, config.evaluation.chunk, samples["priced"]
  paid = evaluate_system(entry.system, entry.rule, priced, world, believe, chunk_size=chunk)
  lap("pricing")
  kept, figures = {"priced": paid}, {"note": entry.note, "knob": entry.system.knob}
  if isinstance(entry.rule, payments.Free):
    return figures, kept
  auditing = audit.AuditOptions(
    num_requests=options.audited_requests, num_unshown=options.unshown, num_nodes=options.nodes,
    sigma=config.value_sigma, requests_per_call=chunk, refinements=options.refinements, seed=config.seed,
  )  # fmt: skip
  found = audit.audit_system(entry.system, entry.rule, priced, world, auditing)
  figures |= {f"audit/{name}": value for name, value in audit.audit_figures(found, auditing).items()}
  kept["audited"] = audit_views.myerson_totals(found)
  figures["curves"] = report.plain(audit_views.example_curves(found))
  figures["scatter"] = report.plain(audit_views.payment_scatter(found))
  lap("audit")
  pay = lambda setting, g: evaluate_system(*setting, priced, world, believe, shading=g, chunk_size=chunk)
  found, totals = equilibria(entry, config, world, equal, samples["validation"], paid, pay)
  lap("equilibria")
  return figures | found, kept | totals


def equilibria(entry, config, world, equal, validation, truthful, pay):
  """Returns (figures, totals) of RPM (c) at each of config.evaluation.equilibrium_loads.

  "fixed" keeps the slot price of truthful bids, so that shaded bids show fewer ads; "equal" (names end in "_equal")
  sets the price anew at every g, so that the ad load stays. They are one where nobody shades. Totals are left out where
  no equilibrium was found.

  Args: entry, config, world, equal: as in `assess`; validation: request columns; truthful: totals at g = 1; pay:
    ((system, rule), g) -> totals.
  """
  options = config.evaluation
  sampled = equilibrium.EquilibriumOptions(
    num_requests=options.equilibrium_requests, num_unshown=options.unshown, sigma=config.value_sigma,
    requests_per_call=options.chunk, seed=config.seed,
  )  # fmt: skip
  settings = {"fixed": lambda g, finely=False: (entry.system, entry.rule), "equal": equal.by_bids(entry)}
  figures, totals, found = {}, {}, None
  for load in options.equilibrium_loads:
    setting, end = settings[load], "" if load == "fixed" else f"_{load}"
    if found is None or found.multiplier != 1.0:
      found = equilibrium.shading_equilibrium(setting, validation, world, sampled)
    figures |= {f"shading{end}": found.multiplier if found.converged else "none", f"residual_gain{end}": found.gain}
    figures[f"gain_by_value{end}"] = found.gain_by_value
    if found.converged:
      g = found.multiplier
      totals[f"equilibrium{end}"] = truthful if g == 1.0 else pay(setting(g, finely=True), g)
  return figures, totals
