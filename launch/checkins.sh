#!/usr/bin/env bash
# EGA and its baselines on a city's check-ins, from one command: data, seeds of training, their evaluation, one report.
# Usage: bash launch/checkins.sh CITY [--config.a.b=value ...]; the same command goes on with what a killed one left.
# RUN: folder of all results (runs/checkins). SEEDS: of training ("0 1 2"). MARKETPLACE: seed of what is drawn over the
# visits (1). PREPARE: more arguments of launch.prepare_data, such as "--num_organic=20" for a small city (none).
# EXPERIMENT: a config (experiments/ega_checkins/config.py). JOBS: seeds at once, a core each (2).
# RUN/data_of.txt keeps what the data were made of; another CITY, MARKETPLACE or PREPARE needs another RUN: exit code 2.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ $# -ge 1 ] || { sed -n 's/^# Usage: //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
refuse() { echo "bad input: $*" >&2; exit 2; }
[ -d "$1" ] || refuse "CITY is $1; allowed: a folder with checkins.tsv and pois.tsv"
city=$(realpath "$1")
shift
cd "$root"
export run=${RUN:-runs/checkins} experiment=${EXPERIMENT:-experiments/ega_checkins/config.py}
data_of() { # one line per input file and setting
  (cd "$city" && for name in checkins.tsv pois.tsv category_embeddings.npy windows_{train,val,test}.csv; do
    [ ! -f "$name" ] || sha256sum "$name" || exit
  done) || return
  echo "MARKETPLACE=${MARKETPLACE:-1}"
  echo "PREPARE=${PREPARE:-}"
}
now=$(data_of)
if [ -f "$run/data/schema.json" ]; then # the data are there: are they these?
  [ -f "$run/data_of.txt" ] ||
    refuse "RUN is $run: no data_of.txt says what its data were made of; allowed: another RUN"
  changed=$(diff "$run/data_of.txt" - <<< "$now") ||
    refuse "RUN is $run, of another CITY, MARKETPLACE or PREPARE (< there, > now); allowed: another RUN"$'\n'"$changed"
fi
source "$root/launch/environment.sh"
source "$root/launch/cpu.sh"
export python
if [ ! -f "$run/data/schema.json" ]; then
  mkdir -p "$run"
  echo "$now" > "$run/data_of.txt" # before, so that data that are there always have one
  "$python" -m launch.prepare_data --source=checkins --input="$city" --output="$run/data" --seed="${MARKETPLACE:-1}" \
    ${PREPARE:-}
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
