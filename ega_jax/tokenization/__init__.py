"""Embeddings -> semantic ids: residual k-means, RQ-VAE, collision suffix, inverted index, metrics."""

from ega_jax.tokenization.metrics import tokenization_metrics
from ega_jax.tokenization.residual import encode, fit_residual_kmeans, reconstruct
from ega_jax.tokenization.semantic_ids import InvertedIndex, add_suffix, resolve_collisions

__all__ = [
  "InvertedIndex",
  "add_suffix",
  "encode",
  "fit_residual_kmeans",
  "reconstruct",
  "resolve_collisions",
  "tokenization_metrics",
]
