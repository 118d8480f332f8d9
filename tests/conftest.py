"""Settings that must be in the environment before jax starts."""

import getpass
import os
import tempfile

import pytest

os.environ.setdefault("NPROC", "16")  # XLA:CPU's all-reduce over fake devices can deadlock with fewer threads
cache = os.path.join(tempfile.gettempdir(), f"ega_jax_cache_{getpass.getuser()}")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config, items):
  """Keeps together, where two processes share the tests, those that need the one trained run, which takes minutes, and
  the others of a file; the former come first.
  """
  if not config.pluginmanager.hasplugin("xdist"):
    return
  trained = lambda item: hasattr(item.module, "tiny_run")
  for item in items:
    item.add_marker(pytest.mark.xdist_group("trained" if trained(item) else item.module.__name__))
  items.sort(key=lambda item: not trained(item))
