#!/usr/bin/env bash
# Trains and grades auctions in all settings and seeds, JOBS at once, and writes results.json and table.md.
# Usage: bash experiments/differentiable_auctions/run.sh [--config.a.b=value ...]; a killed one is continued.
# RUN: folder of all results (runs/auctions). SETTINGS: bidders x items ("2x1 3x1 5x1 1x2 2x2 2x3"). SEEDS ("0 1 2").
# JOBS: processes at once, a core each (2).
set -euo pipefail
settings=${SETTINGS:-2x1 3x1 5x1 1x2 2x2 2x3}
for setting in $settings; do
  [[ $setting =~ ^[1-9][0-9]*x[1-9][0-9]*$ ]] || {
    echo "bad input: SETTINGS has $setting; allowed: numbers of bidders and items such as \"2x1 3x1\"" >&2
    exit 2
  }
done
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
source "$root/launch/environment.sh"
source "$root/launch/cpu.sh"
cd "$root"
export python run=${RUN:-runs/auctions}
mkdir -p "$run"
one() { # setting seed [overrides]
  local setting=$1 seed=$2 pinned
  shift 2
  pin "$SLOT"
  "${pinned[@]}" "$python" -m launch.train --experiment=experiments/differentiable_auctions/config.py \
    --workdir="$run/$setting/seed$seed" --config.num_bidders="${setting%x*}" --config.num_items="${setting#*x}" \
    --config.seed="$seed" --log_every=1000 --output="$run/$setting/seed$seed.json" "$@"
}
export -f one
for seed in ${SEEDS:-0 1 2}; do
  for setting in $settings; do
    echo "$setting $seed"
  done
done | xargs -P "${JOBS:-2}" --process-slot-var=SLOT -L 1 bash -euo pipefail -c \
  'overrides=("${@:1:$#-2}"); set -- "${@: -2}" "${overrides[@]}"; one "$@"' one "$@"
"$python" -m experiments.differentiable_auctions.table "$run"
