"""Metrics on disk (JSON lines and TensorBoard) and progress on stderr."""

import json
import math
import os
import sys
import time
from pathlib import Path

import jax


class MetricsWriter:
  """Writes STAGE/metrics.jsonl, one line per write, and TensorBoard events beside it. First process only.

  The lines hold nothing that depends on the clock: after a resume the file equals that of an uninterrupted run.
  directory: of the stage.
  """

  def __init__(self, directory, step):
    """Opens the files and drops what was written after `step`, from where the run continues."""
    self._file = self._board = None
    if jax.process_index():
      return
    from tensorboardX import SummaryWriter

    path = Path(directory) / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    truncate(path, step)
    self._file = path.open("a")
    self._board = SummaryWriter(str(Path(directory) / "tensorboard"), purge_step=step + 1, write_to_disk=True)

  def write(self, step, values, phase):
    """Writes `values` (dict of floats) after `step`; `phase` is train, evaluate or final."""
    if self._file is None:
      return
    values = {name: float(value) for name, value in values.items()}
    shown = {name: value if math.isfinite(value) else None for name, value in sorted(values.items())}
    self._file.write(json.dumps({"step": step, "phase": phase, **shown}) + "\n")
    self._file.flush()
    for name, value in values.items():
      self._board.add_scalar(f"{phase}/{name}", value, step)

  def close(self):
    """Closes both files."""
    if self._file is not None:
      self._file.close()
      self._board.close()


def read_metrics(path):
  """Returns the whole lines of a metrics.jsonl as dicts; a last line that was cut off by a kill is left out."""
  lines = []
  for line in Path(path).read_text().splitlines():
    try:
      lines.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return lines


def truncate(path, step):
  """Keeps the lines up to `step`, atomically; lines of the end of a stage are written again when it ends."""
  if not Path(path).exists():
    return
  kept = [line for line in read_metrics(path) if line["step"] <= step and line["phase"] != "final"]
  beside = Path(path).with_name(Path(path).name + ".writing")
  beside.write_text("".join(json.dumps(line) + "\n" for line in kept))
  os.replace(beside, path)


class Progress:
  """Prints "pretrain 200/1000 loss 1.2345 | 35.1 steps/s, 23 s left" on stderr. First process only.

  Args: stage: the word in front; num_steps: until the end; step: done before, where a run continues; unit: what a step
    is.
  """

  def __init__(self, stage, num_steps, step=0, unit="steps"):
    self._stage, self._num_steps, self._unit = stage, num_steps, unit
    self._step, self._time = step, time.monotonic()

  def show(self, step, loss=None):
    """Prints the line; the rate is that since the last one. loss: None where there is none."""
    now = time.monotonic()
    rate = (step - self._step) / max(now - self._time, 1e-9)
    self._step, self._time = step, now
    left = (self._num_steps - step) / rate if rate else float("inf")
    known = "" if loss is None else f" loss {loss:.4f}"
    self.say(f"{step}/{self._num_steps}{known} | {rate:.1f} {self._unit}/s, {duration(left)} left")

  def say(self, text):
    """Prints one line of the stage."""
    if not jax.process_index():
      print(f"{self._stage} {text}", file=sys.stderr, flush=True)


def duration(seconds):
  """Returns "42 s", "3 min 20 s" or "2 h 5 min"."""
  if not math.isfinite(seconds):
    return "?"
  seconds = round(seconds)
  if seconds < 60:
    return f"{seconds} s"
  minutes, seconds = divmod(seconds, 60)
  return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
