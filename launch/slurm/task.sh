#!/usr/bin/env bash
# One task of a SLURM job: runs its arguments as a command and prints the exit status,
# in the form that launch/restarts.sh reads. srun itself returns only the highest status
# of all tasks, so the mistake of one task (2) would be hidden by the 69 of the others.

# shellcheck source=launch/restarts.sh
source "$FACECYCLE_ROOT/launch/restarts.sh"

# SLURM sends SIGTERM to every process of a task. This one must wait until the training
# has saved its state.
trap 'echo "task.sh: asked to stop"' TERM

status=0
"$@" || status=$?
report_status "task$SLURM_PROCID" "$status"
exit "$status"
