#!/usr/bin/env bash
# The rows that docs/benchmarks.md leaves open, on a machine with a GPU: ours, and the released step.
#
#   bash benchmarks/gpu.sh FOLDER_OF_THE_RELEASE OUT [STAGE …]
#
# Each stage is meant to fit into ten minutes and leaves OUT/STAGE.txt and, but for the last two,
# OUT/STAGE.json; what is measured is on disk at once. Without stages all are run, one after the
# other; one that fails leaves the others, and the exit code says so. PYTHON: one that has JAX and
# PyTorch for the GPU. CONFIG, HEIGHT, BATCHES, DEVICE, ROUNDS: to try the script elsewhere.
set -euo pipefail
[[ $# -ge 2 ]] || { echo "error: expected: gpu.sh FOLDER_OF_THE_RELEASE OUT [STAGE …]" >&2; exit 1; }
released=$(realpath -m "$1") out=$(realpath -m "$2") # before the folder is another
shift 2
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} config=${CONFIG:-gta2cs} height=${HEIGHT:-512} device=${DEVICE:-cuda}
read -r small large <<<"${BATCHES:-2 16}"
mkdir -p "$out"

# Beside PyTorch JAX takes what it needs, as it goes. That leaves holes where several variants come
# and go, so by itself it takes all at once.
export XLA_PYTHON_CLIENT_PREALLOCATE=true XLA_PYTHON_CLIENT_MEM_FRACTION=.95
beside_pytorch() { XLA_PYTHON_CLIENT_PREALLOCATE=false XLA_PYTHON_CLIENT_MEM_FRACTION=.75 "$@"; }

step() { # STAGE, options of benchmarks.speed.step
  "$python" -m benchmarks.speed.step --config "$config" --rounds "${ROUNDS:-5}" --json "$out/$1.json" \
    --set data.crop_height="$height" data.crop_width="$height" "${@:2}"
}

reference() { # NAME, batch, options of the released step
  echo "$1=$python benchmarks/reference/released_step.py '$released' --device $device --height $height" \
    "--width $height --batch $2 ${*:3}"
}

run_stage() {
  case $1 in
    small) # all in turn
      beside_pytorch step small data.batch_size="$small" --sweep model.dtype float32 bfloat16 \
        --reference "$(reference float32 "$small")" --reference "$(reference TF32 "$small" --tf32)" \
        --reference "$(reference autocast "$small" --autocast)" \
        --reference "$(reference 'autocast, channels last' "$small" --autocast --channels_last)" ;;
    small_float32)
      beside_pytorch step small_float32 data.batch_size="$small" compute.matmul_precision=highest \
        --reference "$(reference float32 "$small")" --reference "$(reference TF32 "$small" --tf32)" \
        --reference "$(reference autocast "$small" --autocast)" ;;
    forms) # one pass, computed again
      step forms data.batch_size="$small" model.dtype=bfloat16 \
        --sweep compute.one_student_pass False True --sweep compute.rematerialize False True ;;
    layout)
      XLA_FLAGS="--xla_gpu_force_conv_nhwc=true ${XLA_FLAGS:-}" \
        step layout data.batch_size="$small" model.dtype=bfloat16 ;;
    graphs) # kernels one by one: what the graphs of them gain, and names in the profile
      XLA_FLAGS="--xla_gpu_enable_command_buffer= ${XLA_FLAGS:-}" \
        step graphs data.batch_size="$small" model.dtype=bfloat16 ;;
    large | large_tf32 | large_float32) # ours alone, computed again where it does not fit
      case $1 in
        large) options=(model.dtype=bfloat16) ;;
        large_tf32) options=(model.dtype=float32) ;;
        *) options=(model.dtype=float32 compute.matmul_precision=highest) ;;
      esac
      step "$1" data.batch_size="$large" "${options[@]}" --sweep compute.rematerialize False True ;;
    between)
      step between --sweep data.batch_size 4 8 --sweep model.dtype float32 bfloat16 ;;
    between_float32)
      step between_float32 compute.matmul_precision=highest --sweep data.batch_size 4 8 ;;
    large_released) # the references alone, one after the other: two programs may be too large for a GPU
      "$python" -m benchmarks.speed.references --rounds "${ROUNDS:-5}" --json "$out/large_released.json" \
        "$(reference float32 "$large")" "$(reference TF32 "$large" --tf32)" \
        "$(reference autocast "$large" --autocast)" ;;
    transformers) # ours beside Hugging Face's; "$python" has transformers, too
      beside_pytorch "$python" -m benchmarks.speed.encoders --python "$python" --networks B0 B5 S L DA-S DA-L \
        --sizes 512 1024 --dtype bfloat16 --rounds "${ROUNDS:-5}" --steps 10 ;;
    recipes) # with crops of their own
      for each in gta2cs_daformer gta2cs_hrda gta2cs_mic gta2cs_vfm_uda; do
        "$python" -m benchmarks.speed.step --config "$each" --rounds "${ROUNDS:-5}" \
          --json "$out/recipes_$each.json" --set model.dtype=bfloat16 data.batch_size="$small"
      done ;;
    kernels) "$python" -m benchmarks.speed.kernel_gradients && "$python" -m benchmarks.speed.classifier ;;
    *) echo "error: no stage $1" >&2; return 1 ;;
  esac
}

all=(small small_float32 forms layout graphs large large_tf32 large_float32 between between_float32
  large_released transformers recipes kernels)
[[ $# -gt 0 ]] || set -- "${all[@]}"
failed=()
for stage; do
  echo "== $stage"
  rm -f "$out/$stage.json" # of an earlier time
  run_stage "$stage" 2>&1 | tee "$out/$stage.txt" || failed+=("$stage")
done
[[ ${#failed[@]} -eq 0 ]] || { echo "error: failed: ${failed[*]}" >&2; exit 1; }
