#!/usr/bin/env bash
# One run on all hosts of a Cloud TPU slice.
#
#   launch/tpu_pod.sh install my-tpu us-central2-b
#   launch/tpu_pod.sh run my-tpu us-central2-b --config=configs/gta2cs.py:batch=64 \
#     --workdir=/mnt/runs/gta2cs
#
# "install" copies this checkout to every host and installs it there. "run" gives what follows to
# `python -m corda_jax.main` on every host; the folder of the run lies on a disk that all of them
# share (Filestore, or a bucket mounted with gcsfuse). DRY_RUN=1 prints the commands.
set -euo pipefail

usage="usage: $0 install|run TPU ZONE [flags of corda_jax.main]"
[[ $# -ge 3 ]] || { echo "$usage" >&2; exit 2; }
action=$1 tpu=$2 zone=$3
shift 3

cloud() {
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%q ' gcloud compute tpus tpu-vm "$@" "--zone=$zone" --worker=all
    echo
  else
    gcloud compute tpus tpu-vm "$@" "--zone=$zone" --worker=all
  fi
}

case $action in
  install)
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    git -C "$(dirname "$0")/.." archive --format=tar.gz --output="$archive" HEAD
    cloud scp "$archive" "$tpu:corda_jax.tar.gz"
    cloud ssh "$tpu" --command="mkdir -p corda_jax && tar -xzf corda_jax.tar.gz -C corda_jax &&
      python3 -m venv corda_jax/.venv && corda_jax/.venv/bin/pip install --quiet -e 'corda_jax[tpu]'"
    ;;
  run)
    printf -v flags '%q ' "$@"
    cloud ssh "$tpu" --command="cd corda_jax && .venv/bin/python -m corda_jax.main --multihost $flags"
    ;;
  *)
    echo "$usage" >&2
    exit 2
    ;;
esac
