#!/usr/bin/env bash
# One run on all GPUs of this machine, in the background, its output in WORKDIR/output.txt:
#
#   launch/gpu.sh runs/gta2cs --config=configs/gta2cs.py
#
# What follows the folder of the run is given to `python -m corda_jax.main`, which is started in the
# checkout. Given again after it has ended, the command goes on from the newest checkpoint; while it
# runs, it is refused.
set -euo pipefail

workdir=${1:?is missing: name the folder of the run, then the flags of corda_jax.main}
shift
mkdir -p "$workdir"
workdir=$(realpath "$workdir")
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || {
  echo "error: there is no $python: install the project, or set PYTHON" >&2
  exit 1
}
exec 9>"$workdir/.lock" # held by the background process, which inherits it, until it ends
flock --nonblock 9 || {
  echo "error: a run in $workdir is under way: tail -f $workdir/output.txt" >&2
  exit 1
}
nohup "$python" -m corda_jax.main --workdir="$workdir" "$@" \
  >>"$workdir/output.txt" 2>&1 </dev/null &
echo "process $!; tail -f $workdir/output.txt"
