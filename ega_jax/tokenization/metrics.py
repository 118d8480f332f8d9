"""How good a tokenisation is: collisions, code usage, entropy, similarity within paths, reconstruction (numpy)."""

import numpy as np


def collision_rate(codes):
  """Returns the share of items whose whole path `codes` i[N, L] is shared with another item (GPR section 2)."""
  _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
  return float(np.mean(counts[inverse] > 1))


def code_counts(codes, codebook_size):
  """Returns i64[L, K], how many items carry each code of each level."""
  codes = np.asarray(codes)
  return np.stack([np.bincount(codes[:, level], minlength=codebook_size) for level in range(codes.shape[1])])


def code_usage(codes, codebook_size):
  """Returns f64[L], CUR_l: the share of level-l codes that at least one item carries (GPR section 2)."""
  return np.mean(code_counts(codes, codebook_size) > 0, axis=1)


def code_entropy(codes, codebook_size):
  """Returns f64[L], the entropy of each level's codes over the items, in bits; at most log2(codebook_size)."""
  counts = code_counts(codes, codebook_size)
  share = counts / counts.sum(axis=1, keepdims=True)
  return -np.sum(share * np.log2(np.where(share > 0, share, 1)), axis=1)


def path_similarity(embeddings, codes):
  """Returns PAS: the mean cosine similarity of two items on one path, averaged over shared paths; None without any.

  GPR names the quantity without a formula; averaging over paths, not over pairs, is our decision: the largest
  bucket would otherwise decide alone. Cosines are of the embeddings as given.
  """
  embeddings = np.asarray(embeddings, np.float64)
  unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
  _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
  total = np.zeros((len(counts), unit.shape[1]))
  np.add.at(total, inverse, unit)
  squares = np.bincount(inverse, weights=np.sum(unit**2, axis=1))
  shared = counts > 1
  if not shared.any():
    return None
  # The ordered pairs' cosines sum to |sum of unit vectors|^2 minus the vectors' own squares.
  pairs = (np.sum(total**2, axis=1) - squares)[shared] / (counts * (counts - 1))[shared]
  return float(np.mean(pairs))


def reconstruction_error(embeddings, reconstruction):
  """Returns the share of variance lost: sum |x - x_hat|^2 / sum |x - mean|^2; 0 is exact, 1 is the mean."""
  embeddings = np.asarray(embeddings, np.float64)
  lost = np.sum((embeddings - reconstruction) ** 2)
  total = np.sum((embeddings - embeddings.mean(axis=0)) ** 2)
  return float(lost / total) if total > 0 else float(lost)


def tokenization_metrics(embeddings, codes, codebook_size, reconstruction=None):
  """Returns every metric of the paths `codes` i[N, L] (without a collision suffix) as a dict ready for JSON.

  Args: embeddings f[N, D]; codebook_size: K of every level; reconstruction f[N, D], None: its error is left out.
  """
  _, counts = np.unique(codes, axis=0, return_counts=True)
  report = {
    "items": int(len(codes)),
    "distinct_embeddings": int(len(np.unique(np.asarray(embeddings), axis=0))),
    "paths": int(len(counts)),
    "largest_bucket": int(counts.max()),
    "collision_rate": collision_rate(codes),
    "code_usage": code_usage(codes, codebook_size).tolist(),
    "code_entropy_bits": code_entropy(codes, codebook_size).tolist(),
    "path_similarity": path_similarity(embeddings, codes),
  }
  if reconstruction is not None:
    report["reconstruction_error"] = reconstruction_error(embeddings, reconstruction)
  return report
