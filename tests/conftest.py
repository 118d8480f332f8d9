"""Settings that must be in the environment before jax starts."""

import functools
import getpass
import os
import tempfile

import pytest

os.environ.setdefault("NPROC", "16")  # XLA:CPU's all-reduce over fake devices can deadlock with fewer threads
cache = os.path.join(tempfile.gettempdir(), f"ega_jax_cache_{getpass.getuser()}")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """Keeps together, where processes share the tests, those of the one trained run, which takes minutes, and those of a
  file.
  """
  from xdist.scheduler import LoadScopeScheduling

  class ByRun(LoadScopeScheduling):
    def _split_scope(self, nodeid):
      file = nodeid.partition("::")[0]
      return "the trained run" if _imports_run(config.rootpath / file) else file

  return ByRun(config, log)


@functools.cache
def _imports_run(path):
  return "\nimport tiny_run\n" in path.read_text()
