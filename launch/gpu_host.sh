#!/usr/bin/env bash
# Trains on the GPUs of this machine, all of them in one process, because JAX needs no
# more for one machine.
#
#   launch/gpu_host.sh [--gpus=0,1,2] [--memory=0.9] [--dry-run]
#       --config=FILE --workdir=DIR [--config.FIELD=VALUE ...]
#
# --gpus    numbers of the GPUs to use (all); config.batch_size must be a multiple of
#           how many these are
# --memory  fraction of their memory that JAX allocates at the start (0.9)

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

gpus=""
memory=0.9
flags=()
for argument in "$@"; do
  case "$argument" in
    -h | --help) help ;;
    --dry-run) DRY_RUN=1 ;;
    --gpus=*) gpus="$(value "$argument")" ;;
    --memory=*) memory="$(value "$argument")" ;;
    *) take_flag "$argument" ;;
  esac
done
check_flags "${flags[@]}"
find_config "${flags[@]}"

if [[ -n "$gpus" ]]; then
  [[ "$gpus" =~ ^(0|[1-9][0-9]*)(,(0|[1-9][0-9]*))*$ ]] || die "--gpus must be numbers with commas, got '$gpus'."
  repeated="$(tr ',' '\n' <<< "$gpus" | sort | uniq -d)"
  [[ -z "$repeated" ]] || die "--gpus must name each GPU once, got '$gpus'."
fi
[[ "$memory" =~ ^0?\.0*[1-9][0-9]*$ ]] || die "--memory must be above 0 and below 1, got '$memory'."
if ! ((DRY_RUN)) && ! command -v nvidia-smi > /dev/null; then
  die "no nvidia-smi here: this machine has no NVIDIA GPU, or no driver for it; launch/local.sh runs anywhere."
fi

# The CPU too, on which batches are drawn.
settings=(
  PYTHONPATH="$IMPORTS"
  JAX_PLATFORMS=cuda,cpu
  JAX_COMPILATION_CACHE_DIR="$CACHE"
  XLA_PYTHON_CLIENT_MEM_FRACTION="$memory"
)
[[ -z "$gpus" ]] || settings+=(CUDA_VISIBLE_DEVICES="$gpus")
run_in_place env "${settings[@]}" "${TRAINING[@]}" "${flags[@]}"
