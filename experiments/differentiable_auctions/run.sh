#!/usr/bin/env bash
# Trains and grades auctions in all settings and seeds, JOBS at once, and writes results.json and table.md.
# Usage: bash experiments/differentiable_auctions/run.sh [--config.a.b=value ...]; a killed one is continued.
# RUN: folder of all results (runs/auctions). SETTINGS: "bidders x items", SEEDS ("0 1 2"), JOBS: a core each (2).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
source "$root/launch/environment.sh"
source "$root/launch/cpu.sh"
cd "$root"
export python run=${RUN:-runs/auctions}
mkdir -p "$run"
one() { # setting seed [overrides]
  local setting=$1 seed=$2 pinned=()
  shift 2
  command -v taskset > /dev/null && pinned=(env NPROC=1 taskset -c "$((SLOT % $(nproc)))")
  "${pinned[@]}" "$python" -m launch.train --experiment=experiments/differentiable_auctions/config.py \
    --workdir="$run/$setting/seed$seed" --config.num_bidders="${setting%x*}" --config.num_items="${setting#*x}" \
    --config.seed="$seed" --log_every=1000 --output="$run/$setting/seed$seed.json" "$@"
}
export -f one
for seed in ${SEEDS:-0 1 2}; do
  for setting in ${SETTINGS:-2x1 3x1 5x1 1x2 2x2 2x3}; do
    echo "$setting $seed"
  done
done | xargs -P "${JOBS:-2}" --process-slot-var=SLOT -L 1 bash -euo pipefail -c \
  'overrides=("${@:1:$#-2}"); set -- "${@: -2}" "${overrides[@]}"; one "$@"' one "$@"
"$python" -m experiments.differentiable_auctions.table "$run"
