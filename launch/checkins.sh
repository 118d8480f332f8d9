#!/usr/bin/env bash
# EGA and its baselines on a city's check-ins, from one command: data, seeds of training, their evaluation, one report.
# Usage: bash launch/checkins.sh CITY [--config.a.b=value ...]; the same command goes on with what a killed one left.
# RUN: folder of all results (runs/checkins). SEEDS: of training ("0 1 2"). MARKETPLACE: seed of what is drawn over the
# visits (1). EXPERIMENT: a config (experiments/ega_checkins/config.py). JOBS: seeds at once, a core each (2).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ $# -ge 1 ] || { sed -n 's/^# Usage: //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
city=$(realpath "$1")
shift
source "$root/launch/environment.sh"
source "$root/launch/cpu.sh"
cd "$root"
export python run=${RUN:-runs/checkins} experiment=${EXPERIMENT:-experiments/ega_checkins/config.py}
if [ ! -f "$run/data/schema.json" ]; then
  "$python" -m launch.prepare_data --source=checkins --input="$city" --output="$run/data" --seed="${MARKETPLACE:-1}"
fi
one_seed() { # seed [overrides]; SLOT counts the seeds that run at once
  local seed=$1 pinned=() started=$SECONDS
  shift
  command -v taskset > /dev/null && pinned=(taskset -c "$((SLOT % $(nproc)))")
  "${pinned[@]}" "$python" -m launch.train --experiment="$experiment" --workdir="$run/seed$seed" \
    --config.seed="$seed" --config.data="$run/data" "$@"
  echo "seed $seed: trained after $(((SECONDS - started) / 60)) minutes"
  "${pinned[@]}" "$python" -m launch.evaluate --workdir="$run/seed$seed" --output="$run/seed$seed/results.json"
  echo "seed $seed: evaluated after $(((SECONDS - started) / 60)) minutes"
}
export -f one_seed
seeds=(${SEEDS:-0 1 2})
printf '%s\n' "${seeds[@]}" | xargs -P "${JOBS:-2}" --process-slot-var=SLOT -I{} bash -euo pipefail -c \
  'one_seed "$@" 2>&1 | tee -a "$run/seed{}.log"' one_seed {} "$@"
folders=$(printf ",$run/seed%s" "${seeds[@]}")
"$python" -m launch.evaluate --report_only --workdir="${folders#,}" --output="$run/results.json"
