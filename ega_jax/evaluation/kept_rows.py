"""The rows of one seed's evaluation on disk, shared out among the processes that make them.

FOLDER/figures.json  what the rows were made by, and the figures of each
FOLDER/NAME.npz      totals per user of the row NAME
FOLDER.locks/        a file per row under way and one of who is at work; a process that dies lets go of its own
"""

import contextlib
import fcntl
import itertools
import json
import os

from ega_jax.training.checkpoint import write_json

FIGURES = "figures.json"


class Rows:
  """Rows of one origin: a context manager, in which nobody sets the folder aside.

  Rows found in the folder that are `kept_figures` stay; those of another origin are set aside (FOLDER.1, ..), unless
  another process is at work on them.

  Args: made_by: commit, config, parameters and data. order: names of the rows as figures.json lists them. beginning:
    what figures.json has beside `made_by` before the first row.
  Raises: ValueError on entering where another process makes rows of another origin.
  """

  def __init__(self, folder, made_by, order, **beginning):
    self.folder, self.made_by, self.order, self.beginning = folder, made_by, tuple(order), beginning
    self._locks, self._open = f"{folder}.locks", contextlib.ExitStack()

  def __enter__(self):
    os.makedirs(self._locks, exist_ok=True)
    with self._locked("entering"), contextlib.ExitStack() as stack:
      users = stack.enter_context(self._file("users"))
      if _taken(users, fcntl.LOCK_EX):
        if kept_figures(self.folder, self.made_by) is None:
          set_aside(self.folder)
          os.makedirs(self.folder, exist_ok=True)
          write_json(os.path.join(self.folder, FIGURES), {**self.made_by, **self.beginning, "systems": {}}, False)
      elif not _same(self.figures, self.made_by):
        raise ValueError(
          f"{self.folder} is being filled by a process with another commit, config, data or parameters; allowed: to "
          "wait until it has ended, or another workdir"
        )
      fcntl.flock(users, fcntl.LOCK_SH)
      self._open = stack.pop_all()
    return self

  def __exit__(self, *error):
    self._open.close()

  @property
  def figures(self):
    """What figures.json holds now."""
    return read_figures(self.folder)

  @contextlib.contextmanager
  def claimed(self, name, anew=False):
    """Gives whether this process is to make the row or part `name`: no other is at it, and it isn't there or `anew`."""
    with self._file(name) as file:
      yield _taken(file, fcntl.LOCK_EX) and (anew or not self._has(name))

  def add(self, name, found):
    """Adds the figures of a row."""
    self._merge(lambda figures: figures["systems"].update({name: found}))

  def add_part(self, name, found):
    """Adds what belongs to no row."""
    self._merge(lambda figures: figures.update({name: found}))

  def _has(self, name):
    figures = self.figures
    return name in figures or name in figures["systems"]

  def _merge(self, change):
    with self._locked("writing"):
      figures = self.figures
      change(figures)
      rows = figures["systems"]
      figures["systems"] = {name: rows[name] for name in sorted(rows, key=(*self.order, *rows).index)}
      write_json(os.path.join(self.folder, FIGURES), figures, sort_keys=False)  # rows keep their order

  def _file(self, name):
    return open(os.path.join(self._locks, name), "w", encoding="utf-8")

  @contextlib.contextmanager
  def _locked(self, name):
    with self._file(name) as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      yield


def _taken(file, how):
  """Returns whether the lock on an open file could be had at once."""
  try:
    fcntl.flock(file, how | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True


def _same(figures, made_by):
  return all(figures.get(key) == value for key, value in made_by.items())


def read_figures(folder):
  """Returns figures.json of a folder. Raises: ValueError, naming the file, where it is none or damaged."""
  path = os.path.join(folder, FIGURES)
  try:
    with open(path, encoding="utf-8") as file:
      figures = json.load(file)
  except ValueError as error:
    raise ValueError(f"{path}: not JSON, or truncated ({error})") from error
  if not isinstance(figures, dict) or "systems" not in figures:
    raise ValueError(f"{path}: has no systems; allowed: what launch.evaluate wrote")
  return figures


def kept_figures(folder, made_by):
  """Returns the figures of an earlier evaluation in a folder, None unless commit, config, data and parameters are
  these.
  """
  path = os.path.join(folder, FIGURES)
  if made_by["commit"].endswith(("unknown", "+uncommitted")) or not os.path.isfile(path):
    return None
  figures = read_figures(folder)
  return figures if _same(figures, made_by) else None


def set_aside(folder):
  """Renames a folder of rows to FOLDER.1, FOLDER.2, ..: hours of measurement are not written over."""
  if os.path.isfile(os.path.join(folder, FIGURES)):
    number = next(number for number in itertools.count(1) if not os.path.exists(f"{folder}.{number}"))
    os.rename(folder, f"{folder}.{number}")
