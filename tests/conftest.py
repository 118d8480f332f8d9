"""Settings that must be in the environment before jax starts, and the order in which two processes share the files."""

import atexit
import getpass
import os
import shutil
import tempfile

os.environ.setdefault("NPROC", "16")  # XLA:CPU's all-reduce over fake devices can deadlock with fewer threads
cache = os.path.join(tempfile.gettempdir(), f"ega_jax_cache_{getpass.getuser()}")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
if "EGA_TINY_RUN" not in os.environ:  # the processes of pytest-xdist find the folder that the first one made
  os.environ["EGA_TINY_RUN"] = tempfile.mkdtemp(prefix="ega_tiny_")
  atexit.register(shutil.rmtree, os.environ["EGA_TINY_RUN"], ignore_errors=True)


def pytest_collection_modifyitems(items):
  """Lets one process train the tiny run while others test what does not read it."""
  readers = list(dict.fromkeys(item.path for item in items if hasattr(getattr(item, "module", None), "tiny_run")))
  first, later = readers[:1], readers[1:]
  items.sort(key=lambda item: (item.path in later) - (item.path in first))
