"""Cells and tables of the report, in Markdown."""

import numpy as np


def spread(values):
  """Returns (mean, standard deviation over seeds) of the numbers among `values`; (None, None) without one."""
  numbers = [value for value in values if isinstance(value, (int, float))]
  if not numbers:
    return None, None
  return float(np.mean(numbers)), float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0


def cell(values, form):
  """Returns "mean +- spread" over seeds; a text value ("none") in some seed is shown beside it."""
  mean, deviation = spread(values)
  texts = [value for value in values if isinstance(value, str)]
  if mean is None:
    return texts[0] if texts else "-"
  cell = form.format(mean) + (f" ± {form.format(deviation)}" if len(values) > 1 else "")
  return cell + (f" ({len(texts)} x {texts[0]})" if texts else "")


def table(headings, rows):
  """Returns a Markdown table of text cells."""
  lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
  return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
