"""End-to-end generative advertising in JAX: generation, auction and payment in one model.

The sub-packages are imported by name: ega_jax.auction, decoding, losses, models, training, evaluation and so on.
"""

__version__ = "0.2.0.dev0"

__all__ = ["__version__"]
