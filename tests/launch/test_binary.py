"""Exit codes: a check of ours is bad input, a library's complaint a fault of the program."""

import subprocess
import sys

import pytest

PROGRAM = """
import jax
import jax.numpy as jnp
from launch import binary

def main(overrides):
  {body}

binary.run(main)
"""
OURS = 'raise ValueError("--rows=-1; allowed: 0 or more")'
TRACED = 'jax.jit(lambda x: (_ for _ in ()).throw(ValueError("x; allowed: y")))(1.0)'
LIBRARY = "jnp.broadcast_to(jnp.ones(3), (4,))", "jax.jit(lambda x: jnp.broadcast_to(x, (4,)))(jnp.ones(3))"


def run(body, *arguments):
  command = [sys.executable, "-c", PROGRAM.format(body=body), *arguments]
  return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("body", [OURS, TRACED, "open('/no/such/file')", "open('/')", "open('/dev/null/x')"])
def test_bad_input_ends_with_two_and_one_line(body):
  done = run(body)
  assert done.returncode == 2 and done.stderr.startswith("bad input: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize("body", LIBRARY)
def test_what_a_library_refuses_ends_with_one_and_its_traceback(body):
  done = run(body)
  assert done.returncode == 1 and "Traceback" in done.stderr and "ValueError: " in done.stderr


def test_unknown_arguments_and_help():
  assert run("pass").returncode == 0
  assert run("pass", "--no_such_flag=1").returncode == 2
  done = run("pass", "rest")
  assert done.returncode == 2 and "argument 'rest' is unknown" in done.stderr
  assert run("pass", "--help").returncode == 0
