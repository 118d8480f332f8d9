"""A stage of training, as data: what the loop runs without knowing what is learned."""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

Params = Any  # a tree of dicts, records and arrays


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage: tokenizer, pre-training, reward model, policy, payment network, ...

  Parameters are one tree. Constants that models need (catalogue arrays, codes) are leaves that `trainable` does not
  match: nothing is baked into the program, and a loss sees all it needs in `params`.

  Attributes:
    name: the stage's folder in the workdir.
    init: (rng, previous) -> params, traceable. `previous` maps the names of the earlier stages to their final params.
      Leaves may be nn.LogicallyPartitioned boxes. A leaf without a box keeps the axis names that the leaf of its path
      and rank had in an earlier stage.
    loss: (params, batch, rng) -> (sum, weight, metrics); metrics maps a name to (sum, weight). The sums run over the
      whole batch, of all devices, and are divided once.
    batches: (previous) -> grain dataset, or any iterable whose iterator has get_state and set_state. It yields dicts of
      numpy arrays with this process's rows.
    optimizer: applied to the trainable leaves.
    trainable: regular expression, searched in paths such as "generator/poi_decoder/layer_0/kernel". Integer leaves are
      never trained.
    num_steps: 0 trains nothing: init and finish only.
    finish: (params, previous) -> params, on the host, once after the last step (fit codes, calibrate). Deterministic.
    evaluate: (params) -> dict of floats, every `eval_every` steps and at the end.
    needs: names of the stages that `previous` holds; None: all the earlier ones. Stages of which neither needs the
      other can be trained at once, by two commands.
    shapes: as init, of the same shapes and boxes; for an init that computes constants while it is traced, where only
      shapes are asked for.
  """

  name: str
  init: Callable
  loss: Callable | None = None
  batches: Callable | None = None
  optimizer: optax.GradientTransformation | None = None
  trainable: str = ".*"
  num_steps: int = 0
  finish: Callable | None = None
  evaluate: Callable | None = None
  eval_every: int = 0
  needs: tuple[str, ...] | None = None
  shapes: Callable | None = None

  def __post_init__(self):
    if not self.name or not all(c.isalnum() or c in "_-" for c in self.name):
      raise ValueError(f"stage name {self.name!r}; allowed: letters, digits, '_' and '-' (it names a folder)")
    for field in ("num_steps", "eval_every"):
      if getattr(self, field) < 0:
        raise ValueError(f"stage {self.name!r}: {field} = {getattr(self, field)}; allowed: 0 or more")
    missing = [field for field in ("loss", "batches", "optimizer") if getattr(self, field) is None]
    if self.num_steps and missing:
      raise ValueError(f"stage {self.name!r} trains {self.num_steps} steps and has no {missing[0]}")
