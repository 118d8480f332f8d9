"""Archives of arrays, read whole."""

import zipfile
import zlib

import numpy as np


def load_arrays(path) -> dict[str, np.ndarray]:
  """Returns the arrays of a .npz file.

  Raises: ValueError when it is damaged or foreign, FileNotFoundError when it is not there.
  """
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return dict(arrays)
  except FileNotFoundError:
    raise
  except (ValueError, EOFError, OSError, TypeError, zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(f"{path}: not an .npz file, or truncated ({error})") from error
