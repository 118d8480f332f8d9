#!/usr/bin/env bash
# Trains on every host of a Cloud TPU slice: TPU=NAME ZONE=ZONE bash launch/tpu_pod.sh [arguments of launch.train]
# Run it where gcloud is set up. The package must be at DIRECTORY (default ~/ega_jax) on the hosts, with its .venv;
# --workdir must be a folder that all hosts share. The hosts find each other: --coordinator=auto. --dry_run only prints.
set -euo pipefail
: "${TPU:?set TPU to the name of the TPU slice}" "${ZONE:?set ZONE to its zone}"
directory=${DIRECTORY:-\~/ega_jax}

dry=
arguments=
for argument in "$@"; do
  if [ "$argument" = --dry_run ]; then dry=1; else arguments+=" $(printf '%q' "$argument")"; fi
done
remote="cd $directory && .venv/bin/python -m launch.train --coordinator=auto$arguments"
command=(gcloud compute tpus tpu-vm ssh "$TPU" "--zone=$ZONE" --worker=all "--command=$remote")
if [ "$dry" ]; then
  printf '%q ' "${command[@]}"
  echo
else
  exec "${command[@]}"
fi
