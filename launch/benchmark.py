"""Times parts of the project beside a peer and the physical limit, in one run, as ratios.

python -m launch.benchmark --suite=auction [--seconds=20] [--output=FILE.json]
Suites: auction, a step of training an auction of several items beside the same network in PyTorch.
Peers are no part of the project: pip install '.[benchmark]'. Exit codes: 0; 1 if the run failed; 2 for bad input, also
where a peer is not installed.
"""

import importlib

from absl import flags

from launch import binary

SUITES = {"auction": "launch.benchmarks.auction"}


def define_flags():
  """Defines the flags; not on import, so that tests can import several binaries."""
  flags.DEFINE_enum("suite", None, list(SUITES), "What is timed.", required=True)
  flags.DEFINE_float("seconds", 20.0, "Time of each row, ours and the peer's together.", lower_bound=0.1)
  flags.DEFINE_string("output", "", "JSON report.")


def main(overrides):
  """Returns the exit code."""
  values = flags.FLAGS
  binary.refuse_overrides(overrides)
  binary.check_output(values.output)
  try:
    suite = importlib.import_module(SUITES[values.suite])
  except ModuleNotFoundError as error:
    if error.name != "torch":
      raise
    raise ValueError(f"--suite={values.suite} needs {error.name}: pip install '.[benchmark]'") from error
  report = {"suite": values.suite, **suite.run(values.seconds)}
  print(table(report))
  binary.write_report(values.output, report)
  return 0


def table(report):
  """Returns the report as text, a line per row."""
  lines = [f"suite {report['suite']}: {report['machine']}"]
  for row in report["rows"]:
    lines.append(
      f"{row['name']}: ours {row['ours_ms']:.2f} ms, {row['peer']} {row['peer_ms']:.2f} ms: {row['ratio']:.2f}x "
      f"[{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]; {row['share_of_peak']:.0%} of the peak in matrix products"
    )
  return "\n".join(lines)


if __name__ == "__main__":
  define_flags()
  binary.run(main)
