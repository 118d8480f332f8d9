"""Floating-point operations of an allocation, counted in its program: the cost that no machine's load moves."""

import jax
import numpy as np


def of_system(system, batch, bids):
  """Returns the operations per request of one allocation of bids f[B, 1, C]; 0 for a system without jitted programs."""
  programs = getattr(system, "programs", lambda *_: ())(batch, bids)
  return sum(of_function(function, *arguments) for function, arguments in programs) / len(bids)


def of_function(function, *arguments):
  """Returns the floating-point operations of the matrix products of a traceable function at these arguments.

  A product [M, K] x [K, N] counts 2 M K N, the body of a scan as often as it runs, that of a while loop once (how often
  is not known), of a conditional the costliest branch. What is done elementwise is not counted.
  """
  return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr):
  return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation):
  name, settings = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = settings["dimension_numbers"]
    depth = np.prod([equation.invars[0].aval.shape[axis] for axis in contracted], dtype=float)
    return 2.0 * float(np.prod(equation.outvars[0].aval.shape, dtype=float)) * float(depth)
  if name == "cond":
    return max(_of_jaxpr(branch.jaxpr) for branch in settings["branches"])
  inner = [getattr(value, "jaxpr", value) for value in settings.values()]
  inside = sum(_of_jaxpr(one) for one in inner if hasattr(one, "eqns"))
  return inside * settings["length"] if name == "scan" else inside
