#!/usr/bin/env bash
# The rows that docs/benchmarks.md leaves open, on a machine with a GPU: ours, and the released step.
#
#   bash benchmarks/gpu.sh FOLDER_OF_THE_RELEASE OUT [STAGE …]
#
# Each stage is meant to fit into ten minutes and leaves OUT/STAGE.txt and, but for the last two,
# OUT/STAGE.json; a row is on disk when it is measured. Without stages all are run, one after the
# other. PYTHON: one that has JAX and PyTorch for the GPU. CONFIG, HEIGHT, BATCHES, DEVICE, ROUNDS:
# to try the script elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."

[[ $# -ge 2 ]] || { echo "error: wanted: gpu.sh FOLDER_OF_THE_RELEASE OUT [STAGE …]" >&2; exit 1; }
released=$1 out=$2
shift 2
python=${PYTHON:-python3} config=${CONFIG:-gta2cs} height=${HEIGHT:-512} device=${DEVICE:-cuda}
read -r small large <<<"${BATCHES:-2 16}"
# JAX takes what it needs, so that PyTorch has room beside it; a large batch runs by itself.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
mkdir -p "$out"

step() { # STAGE, options of benchmarks.step
  "$python" -m benchmarks.step --config "$config" --rounds "${ROUNDS:-5}" --json "$out/$1.json" \
    --set data.crop_height="$height" data.crop_width="$height" "${@:2}"
}

peer() { # NAME, batch, options of the released step
  echo "$1=$python benchmarks/released_step.py '$released' --device $device --height $height" \
    "--width $height --batch $2 ${*:3}"
}

run_stage() {
  case $1 in
    small) # all in turn
      step small data.batch_size="$small" --sweep model.dtype float32 bfloat16 \
        --peer "$(peer float32 "$small")" --peer "$(peer TF32 "$small" --tf32)" \
        --peer "$(peer autocast "$small" --autocast)" \
        --peer "$(peer 'autocast, channels last' "$small" --autocast --channels_last)" ;;
    small_float32)
      step small_float32 data.batch_size="$small" compute.matmul_precision=highest \
        --peer "$(peer float32 "$small")" ;;
    forms) # one pass, computed again
      step forms data.batch_size="$small" model.dtype=bfloat16 \
        --sweep compute.one_student_pass False True --sweep compute.rematerialize False True ;;
    layout)
      XLA_FLAGS="--xla_gpu_force_conv_nhwc=true ${XLA_FLAGS:-}" \
        step layout data.batch_size="$small" model.dtype=bfloat16 ;;
    graphs) # kernels one by one: what the graphs of them gain, and names in the profile
      XLA_FLAGS="--xla_gpu_enable_command_buffer= ${XLA_FLAGS:-}" \
        step graphs data.batch_size="$small" model.dtype=bfloat16 ;;
    large) # ours alone, computed again where it does not fit
      step large data.batch_size="$large" --sweep model.dtype bfloat16 float32 \
        --sweep compute.rematerialize False True ;;
    large_float32)
      step large_float32 data.batch_size="$large" compute.matmul_precision=highest \
        --sweep compute.rematerialize False True ;;
    between)
      step between --sweep data.batch_size 4 8 --sweep model.dtype float32 bfloat16 ;;
    large_released) # the peers alone, one after the other: two programs may be too large for a GPU
      for options in "" --tf32 --autocast; do
        "$python" -m benchmarks.peer --rounds "${ROUNDS:-5}" "$(peer "released$options" "$large" "$options")"
      done ;;
    kernels) "$python" -m benchmarks.kernel_gradients && "$python" -m benchmarks.classifier ;;
    *) echo "error: no stage $1" >&2; return 1 ;;
  esac
}

all=(small small_float32 forms layout graphs large large_float32 between large_released kernels)
[[ $# -gt 0 ]] || set -- "${all[@]}"
for stage; do
  echo "== $stage"
  # What fails, for want of memory or of a flag, leaves the others.
  { run_stage "$stage" 2>&1 || echo "stage $stage failed"; } | tee "$out/$stage.txt"
done
