"""Training: an experiment is a list of stages, run by one loop that shards, saves, resumes and reports."""

from ega_jax.training.checkpoint import load_final
from ega_jax.training.loop import NonFiniteLoss, Options, Preempted, run
from ega_jax.training.stage import Stage

__all__ = ["NonFiniteLoss", "Options", "Preempted", "Stage", "load_final", "run"]
