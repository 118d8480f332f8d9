"""What the binaries share: flags, exit codes and reports."""

import errno
import json
import os
import shlex
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from absl import app, flags, logging

from ega_jax.training.loop import Preempted

BAD_INPUT, FAILED = 2, 1
# Of a path that a flag names, mostly.
FILE_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax", "chex")


def run(main):
  """Runs `main(overrides)` and exits: 0, 1 if the run failed, 2 for bad input (ValueError, or a path that is not what
  it should be).

  A ValueError that jax or a library on top of it raised is no check of ours: it ends with its traceback and 1.
  `overrides` are the arguments --config.a.b=value, in order. --verbosity=1 shows where bad input was found.
  """
  app.run(lambda argv: _guarded(main, argv[1:]), flags_parser=parse)


def parse(argv):
  """Returns [program, --config.a.b=value, ...] and sets the flags of the rest; exits with 2 where it cannot."""
  overrides = [argument for argument in argv[1:] if argument.startswith("--config.")]
  try:
    rest = flags.FLAGS([argv[0], *(argument for argument in argv[1:] if not argument.startswith("--config."))])
  except flags.Error as error:
    _refuse(error)
  except SystemExit:  # --help and its like, after which absl reports a failure
    sys.exit(0)
  if flags.FLAGS["verbosity"].using_default_value:
    flags.FLAGS.verbosity = logging.WARNING  # orbax tells of every file at INFO
  if len(rest) > 1:
    _refuse(f"argument {rest[1]!r} is unknown; allowed: --flag=value and --config.a.b=value")
  return [argv[0], *overrides]


def refuse_overrides(overrides):
  """Raises ValueError for --config.a.b=value where there is no config."""
  if overrides:
    raise ValueError(f"argument {overrides[0]!r} is unknown")


def _refuse(error):
  print(f"bad input: {error}", file=sys.stderr)
  sys.exit(BAD_INPUT)


def _guarded(main, overrides):
  try:
    return main(overrides) or 0
  except (ValueError, *FILE_ERRORS) as error:
    if _raised_by_jax(error):
      raise
    logging.debug("bad input", exc_info=True)
    _refuse(error)
  except (FloatingPointError, Preempted) as error:  # anything else is a fault of the program and shows its traceback
    print(f"failed: {error}", file=sys.stderr)
    return FAILED


def _raised_by_jax(error):
  """Returns whether the innermost frame of a traceback is in a library of arrays and models."""
  *_, (frame, _) = traceback.walk_tb(error.__traceback__)
  return frame.f_globals.get("__name__", "").partition(".")[0] in LIBRARIES


def provenance():
  """Returns {"command", "commit"}; the commit is "unknown" outside a git checkout, and ends in "+uncommitted" where
  tracked files differ from it.
  """
  here = Path(__file__).resolve().parent
  try:
    git = lambda *args: subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True).stdout
    commit = git("rev-parse", "HEAD").strip()
    commit += "+uncommitted" if git("status", "--porcelain", "--untracked-files=no").strip() else ""
  except (OSError, subprocess.CalledProcessError):
    commit = "unknown"
  program = Path(sys.argv[0])
  command = ["python", "-m", f"launch.{program.stem}"] if program.resolve().parent == here else [sys.argv[0]]
  return {"command": shlex.join([*command, *sys.argv[1:]]), "commit": commit}


def check_output(path, folder=False, flag="--output"):
  """Raises ValueError unless `flag`=`path`, a file or a `folder`, can be written; no path is none to write.

  Tries it in the nearest folder that exists and leaves nothing there: hours of work must not end at a wrong path.
  """
  if not path:
    return
  if "://" in str(path):
    raise ValueError(f"{flag}={path} is a URL; allowed: a path, such as one of a mounted file system")
  path = Path(path)
  if path.exists() and path.is_dir() != folder:
    kinds = ("a file", "a folder") if folder else ("a folder", "a file")
    raise ValueError(f"{flag}={path} is {kinds[0]}; allowed: {kinds[1]}")
  where = path.absolute() if folder else path.absolute().parent
  while not where.exists():
    where = where.parent
  try:
    tempfile.TemporaryFile(dir=where).close()
    if path.is_file() and not os.access(path, os.W_OK):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
  except OSError as error:
    reason = error.strerror or error
    raise ValueError(f"{flag}={path}: {where} takes no file ({reason}); allowed: where one can write") from error


def write_report(path, report):
  """Writes `report` with its provenance to `path`; nothing if `path` is empty."""
  if path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(provenance() | report, indent=1) + "\n")
