#!/usr/bin/env bash
# The whole of EGA on the embedded marketplace: data, the stages of training, baselines, evaluation, report.
# Needs only Python >= 3.11. Usage: bash launch/quickstart.sh [--config.a.b=value ...]; results in runs/quickstart, or RUN.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/launch/environment.sh"
source "$root/launch/cpu.sh"
cd "$root"
run=${RUN:-runs/quickstart}
overrides=("$@")
train() { # stages
  "$python" -m launch.train --experiment=experiments/quickstart/config.py --workdir="$run" --config.data="$run/data" \
    --stages="$1" "${overrides[@]}"
}
evaluate() { "$python" -m launch.evaluate --workdir="$run" --output="$run/results.json"; }
both() { # two commands at once: programs of this size leave half of two cores idle
  set -m # a process group of its own, which the trap below ends
  $1 &
  set +m
  local first=$! code=0
  $2 || code=$?
  wait "$first" || code=$?
  return "$code"
}
trap 'for job in $(jobs -p); do kill -- "-$job" 2> /dev/null || true; done' EXIT # it does not hear Ctrl-C
"$python" -m launch.prepare_data --source=world --size=small --seed=0 --output="$run/data" --export_requests=20
train tokenizer
both "train pretrain" "train reward"
both "train align,policy,payment" "train ranker"
[ $# = 0 ] || train "" # the stages that settings add
both evaluate evaluate
