#!/usr/bin/env bash
# EGA and its baselines on a city's check-ins, from one command: data, seeds of training, their evaluation, one report.
# Usage: bash launch/checkins.sh CITY [--config.a.b=value ...]; the same command goes on with what a killed one left.
# RUN: folder of all results (runs/checkins). SEEDS: of training ("0 1 2"). MARKETPLACE: seed of what is drawn over the
# visits (1). PREPARE: more arguments of launch.prepare_data, such as "--num_organic=20" for a small city (none).
# EXPERIMENT: a config (experiments/ega_checkins/config.py). JOBS: processes at once, a core each (2).
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
# Tasks, a line each, JOBS at once: every training, then every evaluation, which waits for its seed's training. The last
# ones of all seeds help: processes that evaluate one seed share its systems out.
task() { # train|evaluate|help seed [overrides]; SLOT counts the tasks that run at once
  local what=$1 seed=$2 pinned started=$SECONDS
  local at="$run/seed$seed"
  shift 2
  pin "$SLOT"
  if [ "$what" = train ]; then
    "${pinned[@]}" "$python" -m launch.train --experiment="$experiment" --workdir="$at" \
      --config.seed="$seed" --config.data="$run/data" "$@" || { touch "$at.failed"; return 1; }
    touch "$at.trained"
  else
    until [ -e "$at.trained" ]; do
      [ ! -e "$at.failed" ] || return 1
      sleep "${POLL:-5}"
    done
    [ ! -e "$at.evaluated" ] || return 0
    "${pinned[@]}" "$python" -m launch.evaluate --workdir="$at" --output="$at/results.json"
    touch "$at.evaluated"
  fi
  echo "seed $seed: $what took $(((SECONDS - started) / 60)) minutes"
}
export -f task
seeds=(${SEEDS:-0 1 2})
for seed in "${seeds[@]}"; do
  rm -f "$run/seed$seed".{trained,failed,evaluated}
done
for what in train evaluate help; do
  printf "$what %s\n" "${seeds[@]}"
done | xargs -P "${JOBS:-2}" --process-slot-var=SLOT -L 1 bash -euo pipefail -c \
  'overrides=("${@:1:$#-2}"); set -- "${@: -2}" "${overrides[@]}"; task "$@" 2>&1 | tee -a "$run/seed$2.log"' task "$@"
folders=$(printf ",$run/seed%s" "${seeds[@]}")
"$python" -m launch.evaluate --report_only --workdir="${folders#,}" --output="$run/results.json"
