#!/usr/bin/env bash
# Trains on every host of a TPU VM pod slice, and restarts until the run is finished.
#
#   TPU=my-slice ZONE=us-west4-a experiments/launch/tpu_vm.sh --config=configs/kinetics.py --workdir=/mnt/shared/run ..
#
# The slice must exist (gcloud compute tpus tpu-vm create). Each of its hosts must have this repository at DIRECTORY, with
# `pip install -e ".[train,tpu]"` done. The workdir and the videos must be on storage that every host can use.
set -euo pipefail

: "${TPU:?the name of the slice}" "${ZONE:?its zone}"
DIRECTORY=${DIRECTORY:-nl_jax}
PREEMPTED=75 # the run was asked to stop and has saved its state

state() { gcloud compute tpus tpu-vm describe "$TPU" --zone="$ZONE" --format='value(state)'; }
state > /dev/null || { echo "there is no slice TPU=$TPU in ZONE=$ZONE" >&2 && exit 2; }

# Each host prints its exit code, because ssh may change it.
command="cd ${DIRECTORY@Q} && python3 -m experiments.train --cluster=gcetpu ${*@Q}; echo exit code \$?"
while true; do
  codes=$(gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$command" |
    tee /dev/stderr | grep -o 'exit code [0-9]*' | sort -u) || true
  case $codes in
    "exit code 0") exit 0 ;;
    "exit code $PREEMPTED") echo "preempted; waiting for $TPU" >&2 ;;
    "") echo "no host answers; waiting for $TPU" >&2 && sleep 60 ;; # the hosts were gone before they could print a code
    *) exit 1 ;;
  esac
  until found=$(state) && [[ $found == READY ]]; do # a preempted spot slice must be created again by the user
    echo "waiting for $TPU, which is ${found:-not there}" >&2 && sleep 60
  done
done
