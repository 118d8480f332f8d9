#!/usr/bin/env bash
# Trains with several processes on this machine: bash launch/local_multiprocess.sh N [arguments of launch.train]
# The same command continues a run that was killed. --dry_run prints the commands. PORT sets the coordinator's port,
# EGA_PYTHON the interpreter that has the package (default .venv's).
set -euo pipefail
processes=${1:?usage: local_multiprocess.sh N [arguments of launch.train]}
shift
[[ $processes =~ ^[1-9][0-9]*$ ]] || { echo "number of processes $processes; allowed: 1 or more" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
python=${EGA_PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=python3
address=127.0.0.1:${PORT:-$((20000 + RANDOM % 20000))}
export NPROC=${NPROC:-16} # XLA:CPU's all-reduce over fake devices can deadlock with fewer threads.
cd "$root"

dry=
arguments=()
for argument in "$@"; do
  if [ "$argument" = --dry_run ]; then dry=1; else arguments+=("$argument"); fi
done

pids=()
# After it has joined the others a process takes SIGTERM as a request to save: one that is stuck needs SIGKILL.
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM
trap 'kill -KILL "${pids[@]}" 2>/dev/null || true' EXIT
for ((i = 0; i < processes; i++)); do
  place=("--coordinator=$address" "--num_processes=$processes" "--process_id=$i")
  command=("$python" -m launch.train "${arguments[@]}" "${place[@]}")
  if [ "$dry" ]; then
    printf '%q ' "${command[@]}"
    echo
  else
    "${command[@]}" &
    pids+=($!)
  fi
done
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || { code=$?; [ "$status" -ne 0 ] || status=$code; }
done
exit "$status"
