"""The packages' public names, and what importing them costs: seen from a fresh interpreter."""

import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ega_jax

PACKAGES = sorted(module.name for module in pkgutil.iter_modules(ega_jax.__path__) if module.ispkg)
HEAVY = ("grain", "orbax", "tensorboardX", "matplotlib")


def loaded(packages, watched):
  """Returns which of the modules `watched` are there after the packages were imported in a new interpreter."""
  imports = "; ".join(f"import ega_jax.{package}" for package in packages)
  program = f"import json, sys; {imports}; print(json.dumps([name for name in {watched!r} if name in sys.modules]))"
  run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
  return json.loads(run.stdout)


def test_importing_the_mathematics_is_light():
  assert loaded(["auction", "losses"], (*HEAVY, "flax", "optax", "scipy.optimize")) == []


def test_importing_every_package_loads_nothing_slow():
  assert len(PACKAGES) == 13, PACKAGES
  assert loaded(PACKAGES, HEAVY) == []


def test_a_heavy_import_would_be_seen():
  assert loaded(["training", "auction"], ("flax", "ega_jax.auction.regret")) == ["flax", "ega_jax.auction.regret"]


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist_and_packages_say_what_they_are(package):
  module = importlib.import_module(f"ega_jax.{package}")
  assert module.__doc__ and len(set(module.__all__)) == len(module.__all__) > 0
  for name in module.__all__:
    if not hasattr(module, name):
      importlib.import_module(f"ega_jax.{package}.{name}")
  modules = {found.name for found in pkgutil.iter_modules(module.__path__)}
  if modules & set(module.__all__):  # a package that is imported by its modules names them all
    assert modules <= set(module.__all__), modules - set(module.__all__)


def test_version_is_that_of_setup_and_citation():
  root = Path(__file__).resolve().parent.parent
  for name, pattern in (("setup.cfg", r"^version = (.+)$"), ("CITATION.cff", r"^version: (.+)$")):
    assert re.search(pattern, (root / name).read_text(), re.M).group(1) == ega_jax.__version__, name
