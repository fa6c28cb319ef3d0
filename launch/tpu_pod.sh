#!/usr/bin/env bash
# One run on all hosts of a Cloud TPU slice.
#
#   launch/tpu_pod.sh install my-tpu us-central2-b
#   launch/tpu_pod.sh run my-tpu us-central2-b --config=configs/gta2cs.py:batch=16 \
#     --workdir=/mnt/runs/gta2cs
#
# "install" copies the last commit of this checkout to every host and installs it there, with uv,
# which brings a Python of its own: that of the usual image (Ubuntu 22.04) is 3.10, too old. "run"
# gives what follows to `python -m corda_jax.main` on every host, in the background; the folder of
# the run lies on a disk that all of them share (Filestore, or a bucket mounted with gcsfuse). To
# watch it, and to stop it:
#
#   gcloud compute tpus tpu-vm ssh my-tpu --zone=us-central2-b --worker=0 \
#     --command='tail -f corda_jax/output.txt'
#   gcloud compute tpus tpu-vm ssh my-tpu --zone=us-central2-b --worker=all \
#     --command='kill $(cat corda_jax/process)'
#
# "run" again goes on from the newest checkpoint. DRY_RUN=1 prints the commands.
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
    checkout=$(dirname "$0")/..
    [[ -z $(git -C "$checkout" status --porcelain) ]] ||
      echo "warning: the hosts get the last commit: what is not committed stays here" >&2
    git -C "$checkout" archive --format=tar.gz --output="$archive" HEAD
    cloud scp "$archive" "$tpu:corda_jax.tar.gz"
    cloud ssh "$tpu" --command="mkdir -p corda_jax && tar -xzf corda_jax.tar.gz -C corda_jax &&
      curl -LsSf https://astral.sh/uv/install.sh | sh && cd corda_jax &&
      ~/.local/bin/uv venv --quiet --allow-existing --python 3.12 .venv &&
      ~/.local/bin/uv pip install --quiet --python .venv/bin/python --editable '.[tpu]'"
    ;;
  run)
    flags=
    [[ $# -eq 0 ]] || printf -v flags ' %q' "$@"
    cloud ssh "$tpu" --command="cd corda_jax || exit
      [ -x .venv/bin/python ] || { echo 'error: install first' >&2; exit 1; }
      nohup setsid .venv/bin/python -m corda_jax.main --multihost$flags >>output.txt 2>&1 </dev/null &
      echo \$! >process"
    ;;
  *)
    echo "$usage" >&2
    exit 2
    ;;
esac
