#!/usr/bin/env bash
# Submits a training run to SLURM, with one process for each GPU, on one or several
# nodes. The job is queued again after preemption and at the time limit.
#
#   launch/slurm/submit.sh [--nodes=1] [--gpus-per-node=8] [--time=12:00:00]
#       [--partition=P] [--account=A] [--sbatch=OPTION ...] [--dry-run]
#       --config=FILE --workdir=DIR [--config.FIELD=VALUE ...]
#
# --nodes          number of nodes (1)
# --gpus-per-node  GPUs, and so processes, of each node (8); 0 starts one process per
#                  node on CPUs
# --time           time limit of one start (12:00:00); a job that reaches it is queued
#                  again until it is done
# --partition, --account  as for sbatch
# --sbatch         any other option of sbatch, e.g. --sbatch=--constraint=a100; may be
#                  repeated
#
# The job runs in the folder where this is called, and its log is facecycle-<job>.log
# there. All nodes must see that folder, WORKDIR, the repository and the Python
# environment under the same paths. config.batch_size must be a multiple of the number
# of all GPUs. `scancel JOB` ends the run.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

nodes=1
gpus=8
limit=12:00:00
options=()
flags=()
for argument in "$@"; do
  case "$argument" in
    -h | --help) help ;;
    --dry-run) DRY_RUN=1 ;;
    --nodes=*) nodes="$(value "$argument")" ;;
    --gpus-per-node=*) gpus="$(value "$argument")" ;;
    --time=*) limit="$(value "$argument")" ;;
    --partition=* | --account=*) options+=("$argument") ;;
    --sbatch=*) options+=("$(value "$argument")") ;;
    *) take_flag "$argument" ;;
  esac
done
check_flags "${flags[@]}"
find_config "${flags[@]}"

is_number "$nodes" || die "--nodes must be a whole number above 0, got '$nodes'."
[[ "$gpus" == 0 ]] || is_number "$gpus" || die "--gpus-per-node must be a whole number, got '$gpus'."

if ((gpus)); then
  options+=(--ntasks-per-node="$gpus" --gpus-per-node="$gpus")
  # The CPU too, on which batches are drawn.
  platform=cuda,cpu
else
  options+=(--ntasks-per-node=1)
  platform=cpu
fi
command -v sbatch > /dev/null || ((DRY_RUN)) || die "no sbatch here: call this on a login node of a SLURM cluster."

settings=(
  FACECYCLE_PYTHON="$PYTHON"
  FACECYCLE_ROOT="$ROOT"
  PYTHONPATH="$IMPORTS"
  JAX_COMPILATION_CACHE_DIR="$CACHE"
  # The platform of the job, whatever the login node has.
  JAX_PLATFORMS="$platform"
)
export "${settings[@]}"
if ((DRY_RUN)); then quoted export "${settings[@]}"; fi
run sbatch --nodes="$nodes" --time="$limit" --chdir="$PWD" --export=ALL "${options[@]}" \
  --output="$PWD/facecycle-%j.log" "$ROOT/launch/slurm/train.sbatch" "${flags[@]}"
