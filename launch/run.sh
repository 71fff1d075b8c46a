#!/usr/bin/env bash
# Starts a training run. The first argument says where; the others are the same
# everywhere.
#
#   launch/run.sh WHERE [OPTIONS OF THE PLACE] [--dry-run]
#       --config=FILE --workdir=DIR [--config.FIELD=VALUE ...]
#
# WHERE   local         this machine, all its devices
#         multiprocess  this machine, several processes on simulated devices
#         gpu           this machine, all or some of its GPUs
#         slurm         a SLURM cluster
#         tpu           a Cloud TPU VM, a pod slice or several slices
#         gke           TPUs of a GKE cluster (JobSet, Kueue)
#
# FILE is the file of a config, or the name of one, e.g. motion_cycle. The options of a
# place are explained by launch/run.sh WHERE --help. With --dry-run, commands are printed
# and not run.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

(($#)) || help
where="$1"
shift
case "$where" in
  -h | --help) help ;;
  local) exec "$ROOT/launch/local.sh" "$@" ;;
  multiprocess) exec "$ROOT/launch/local_multiprocess.sh" "$@" ;;
  gpu) exec "$ROOT/launch/gpu_host.sh" "$@" ;;
  slurm) exec "$ROOT/launch/slurm/submit.sh" "$@" ;;
  tpu) exec "$ROOT/launch/tpu_vm.sh" "$@" ;;
  gke) exec "$ROOT/launch/gke/submit.sh" "$@" ;;
  *) die "unknown place '$where': local, multiprocess, gpu, slurm, tpu or gke." ;;
esac
