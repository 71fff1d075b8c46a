# Decides when a training is started again. The launchers source it; it is not run by
# itself.
# shellcheck shell=bash

# Exit statuses of a training, see docs/multi_process.md.
# A process of the job is lost or does not answer.
LOST_EXIT=69
# Ended by SIGTERM, with the state saved.
PREEMPTED_EXIT=75
# Ended by SIGINT: somebody has stopped it from the keyboard.
INTERRUPTED_EXIT=130

# The number of restarts in a row that may end without a new checkpoint.
# shellcheck disable=SC2034  # used by the launchers
MAX_FRUITLESS=3

# Succeeds if a training may be started again after this exit status: a process was
# lost, SIGTERM ended it, or it was killed by a signal other than SIGINT, which is 128 +
# the number of the signal. Any other failure would happen again, and 0 is the end.
can_restart() {
  (($1 != INTERRUPTED_EXIT)) || return 1
  (($1 == LOST_EXIT || $1 == PREEMPTED_EXIT || ($1 > 128 && $1 <= 192)))
}

# Prints all exit statuses for which `can_restart` succeeds, separated by commas.
restart_statuses() {
  local status list=""
  for ((status = 1; status < 256; status++)); do
    if can_restart "$status"; then list+="$status, "; fi
  done
  echo "${list%, }"
}

# Prints the exit status of a job from those of its processes.
#
#   worst_status PROCESSES STATUS...
#
# A mistake or a defect of one process is final. The others then end with 69 or 75, so
# its status has precedence over these; of several such statuses, the smallest counts.
# If there are fewer statuses than processes, the other processes are lost.
worst_status() {
  local processes="$1" status final=0 again=0
  shift
  (($# >= processes)) || again=$LOST_EXIT

  for status in "$@"; do
    if ((status == 0)); then
      continue
    elif ! can_restart "$status"; then
      if ((final == 0 || status < final)); then final=$status; fi
    elif ((again == 0 || status == PREEMPTED_EXIT)); then
      again=$status
    fi
  done

  if ((final)); then
    echo "$final"
  else
    echo "$again"
  fi
}

# Prints how a process of the job ended, in the form that `reported_statuses` reads.
#
#   report_status NAME STATUS
report_status() {
  echo "FACECYCLE_EXIT of=$1 status=$2"
}

# Prints the statuses that a file with the output of a job contains, one line for each
# process.
reported_statuses() {
  sed -n 's/.*FACECYCLE_EXIT of=\([^ ]*\) status=\([0-9][0-9]*\).*/\1 \2/p' "$1" |
    sort -u | cut -d ' ' -f 2
}

# Lists the checkpoints of a workdir in a bucket, those of its stages included. Fails if
# the bucket cannot be read.
list_bucket() {
  local errors listing known=1
  errors="$(mktemp)"
  listing="$(gcloud storage ls "$1/checkpoints/" "$1/*/checkpoints/" 2> "$errors")" || known=0

  # Before the first checkpoint there is nothing to list, which gcloud calls an error.
  if grep -q "matched no objects" "$errors"; then known=1; fi
  rm -f "$errors"
  echo "$listing"
  ((known))
}

# Prints a number that grows with every new checkpoint in a workdir, whichever stage it
# belongs to. Prints nothing if the workdir cannot be read.
checkpoint_progress() {
  local workdir="${1%/}" listing
  if [[ "$workdir" == gs://* ]]; then
    listing="$(list_bucket "$workdir")" || return 0
  else
    # -L: on clusters a workdir is often a link to scratch storage.
    listing="$(find -L "$workdir" -maxdepth 3 -path '*/checkpoints/*' 2> /dev/null)" || true
  fi

  # Lines FOLDER/STEP become FOLDER STEP. The number is the sum over folders of the
  # newest step plus 1, so that a checkpoint of step 0 is more than none.
  sed -n 's#/*$##; s#/\([0-9][0-9]*\)$# \1#p' <<< "$listing" | awk '
    {
      step = $NF + 0
      sub(/ [0-9]+$/, "")
      if (!($0 in newest) || step > newest[$0]) newest[$0] = step
    }
    END {
      for (folder in newest) total += newest[folder] + 1
      print total + 0
    }'
}

# Succeeds if there is a new checkpoint, by the numbers of `checkpoint_progress` before
# and after. Also succeeds if one is not known, so as not to stop a training that goes
# well.
#
#   reached_checkpoint BEFORE AFTER
reached_checkpoint() {
  [[ -z "$1" || -z "$2" ]] || (($2 > $1))
}
