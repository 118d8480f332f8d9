"""Settings that must be in the environment before jax starts."""

import getpass
import os
import tempfile

os.environ.setdefault("NPROC", "16")  # XLA:CPU's all-reduce over fake devices can deadlock with fewer threads
cache = os.path.join(tempfile.gettempdir(), f"ega_jax_cache_{getpass.getuser()}")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
