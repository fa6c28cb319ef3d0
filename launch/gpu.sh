#!/usr/bin/env bash
# One run on all GPUs of this machine, in the background, its output in WORKDIR/output.txt:
#
#   launch/gpu.sh runs/gta2cs --config=configs/gta2cs.py
#
# What follows the folder of the run is given to `python -m corda_jax.main`. Given again, the command
# goes on from the newest checkpoint.
set -euo pipefail

workdir=${1:?is missing: name the folder of the run, then the flags of corda_jax.main}
shift
cd "$(dirname "$0")/.."
mkdir -p "$workdir"
nohup "${PYTHON:-.venv/bin/python}" -m corda_jax.main --workdir="$workdir" "$@" \
  >>"$workdir/output.txt" 2>&1 </dev/null &
echo "process $!; tail -f $workdir/output.txt"
