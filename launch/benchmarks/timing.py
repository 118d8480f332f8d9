"""Timing of two functions in turn, and the machine's peak, so that ratios do not depend on what else it does."""

import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np


def in_turn(ours, peer, seconds):
  """Returns {"ours_ms", "peer_ms": medians, "ratio": peer / ours, "ratio_low", "ratio_high": quartiles over turns}.

  Each function runs its work to the end before it returns; one call of each, not timed, goes before.
  """
  ours(), peer()
  ended, turns = time.perf_counter() + seconds, []
  while time.perf_counter() < ended or len(turns) < 5:
    turns.append((_time(ours), _time(peer)))
  mine, other = np.array(turns).T
  low, ratio, high = np.quantile(other / mine, [0.25, 0.5, 0.75])
  return {
    "ours_ms": 1e3 * float(np.median(mine)), "peer_ms": 1e3 * float(np.median(other)), "ratio": float(ratio),
    "ratio_low": float(low), "ratio_high": float(high), "turns": len(turns),
  }  # fmt: skip


def _time(function):
  started = time.perf_counter()
  function()
  return time.perf_counter() - started


def peak_flops(size=1536, repeats=8):
  """Returns operations a second of the best of `repeats` float32 products [size, size] x [size, size]."""
  product = jax.jit(jnp.dot)
  a = jnp.ones((size, size), jnp.float32)
  product(a, a).block_until_ready()
  return 2.0 * size**3 / min(_time(lambda: product(a, a).block_until_ready()) for _ in range(repeats))


def cores():
  """Returns the cores that this process may use: a peer with more threads than that would be slowed by them."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def machine():
  """Returns what the figures were taken on."""
  return f"{platform.machine()}, {cores()} of {os.cpu_count()} CPUs, {jax.devices()[0].platform} {jax.device_count()}"
