#!/usr/bin/env bash
# One task of a SLURM job: runs its arguments, and prints how they ended, in the words
# of launch/restarts.sh. srun itself tells the highest status of all tasks only, which
# hides one task's mistake behind the others' 69.

# shellcheck source=launch/restarts.sh
source "$FACECYCLE_ROOT/launch/restarts.sh"

# SLURM signals every process of a task; this one waits for the training, which saves
# first.
trap 'echo "task.sh: asked to stop"' TERM

status=0
"$@" || status=$?
report_status "task$SLURM_PROCID" "$status"
exit "$status"
