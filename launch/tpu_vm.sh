#!/usr/bin/env bash
# Trains on a Cloud TPU VM, a pod slice or several: makes them, installs the package on
# all hosts, trains, starts again after preemption, deletes them.
#
#   launch/tpu_vm.sh [--action=all] [--name=facecycle] [--zone=us-central1-a]
#       [--project=P] [--type=v5litepod-16] [--slices=1] [--version=V] [--spot]
#       [--mount=gs://BUCKET[/PREFIX]:/DIR ...] [--restarts=20] [--dry-run]
#       --config=FILE --workdir=gs://BUCKET/DIR [--config.FIELD=VALUE ...]
#
# --action    create, install, train, delete, or all: the first three, again after each
#             preemption, then delete
# --type      accelerator type, e.g. v4-32, v5litepod-16, v5p-32, v6e-16
# --slices    number of slices of this type, joined by the data-centre network; several
#             are one queued resource, and the launcher waits until it is served
# --version   software of the hosts (else the one that belongs to the type)
# --spot      a cheaper machine that may be taken away
# --mount     makes a bucket readable at /DIR on all hosts, for data and weights; may be
#             repeated
# --restarts  how often to go on after a preemption, a lost host, or a machine that could
#             not be made (20); after 3 restarts in a row without a new checkpoint it ends
#
# Needs gcloud, logged in. What is committed is what is installed, and the file of
# --config is copied to the hosts; all other paths are those of the hosts. Compiled
# programs are kept in WORKDIR/xla_cache.
#
# A machine of this name that is there already is not touched: the launcher refuses.
# `create` leaves a machine that costs money until `delete`; `all` deletes the one it
# made, whatever the end, also after Ctrl-C, which cannot interrupt the deletion. If an
# ssh-agent runs, it must hold gcloud's key before a machine of several hosts is used:
# ssh-add ~/.ssh/google_compute_engine. The training outlives a dropped ssh session, and
# `--action=train` with the same flags finds it again. The exit status is that of the
# training.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=launch/restarts.sh
source "$ROOT/launch/restarts.sh"

# Seconds between attempts: the first pause, doubled each time up to the longest.
FIRST_PAUSE=30
LONGEST_PAUSE=600
# So many attempts to install in a row: ssh needs some minutes on a new machine, but it
# costs money.
MAX_INSTALLS=5
# So many sessions in a row in which a host of a machine that is said to be ready does
# not answer.
MAX_SILENT=5
# So many attempts to delete the machine, FIRST_PAUSE seconds apart: Google may refuse as
# long as it is still making it.
MAX_DELETES=6
# So often is a machine looked for whose `create` was stopped, and so many seconds apart:
# Google may show it only after a moment.
MAX_LOOKS=3
LOOK_PAUSE=10
# What Google says when it has no machine to give, or cannot serve the request now.
NO_CAPACITY='RESOURCE_EXHAUSTED|no more capacity|UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL|ABORTED'
# Where the file of --config lies on the hosts, seen from ~/facecycle_jax.
HOST_CONFIG=facecycle_config.py

action=all
name=facecycle
zone=us-central1-a
project=""
type=v5litepod-16
slices=1
version=""
spot=()
mounts=()
restarts=20
workdir=""
flags=()
for argument in "$@"; do
  case "$argument" in
    -h | --help) help ;;
    --dry-run) DRY_RUN=1 ;;
    --action=*) action="$(value "$argument")" ;;
    --name=*) name="$(value "$argument")" ;;
    --zone=*) zone="$(value "$argument")" ;;
    --project=*) project="$(value "$argument")" ;;
    --type=*) type="$(value "$argument")" ;;
    --slices=*) slices="$(value "$argument")" ;;
    --version=*) version="$(value "$argument")" ;;
    --spot) spot=(--spot) ;;
    --mount=*) mounts+=("$(value "$argument")") ;;
    --restarts=*) restarts="$(value "$argument")" ;;
    *) take_flag "$argument" ;;
  esac
done

is_number "$restarts" || die "--restarts must be a whole number above 0, got '$restarts'."
is_number "$slices" || die "--slices must be a whole number above 0, got '$slices'."
check_mounts "${mounts[@]}"
if [[ -z "$version" ]]; then
  case "$type" in
    v4-*) version="tpu-ubuntu2204-base" ;;
    v5litepod-*) version="v2-alpha-tpuv5-lite" ;;
    v5p-*) version="v2-alpha-tpuv5" ;;
    v6e-*) version="v2-alpha-tpuv6e" ;;
    *) die "unknown --type '$type': v4-N, v5litepod-N, v5p-N or v6e-N, or give --version." ;;
  esac
fi
case "$action" in
  train | all)
    check_flags "${flags[@]}"
    [[ "$workdir" == gs://* ]] || die "--workdir must be gs://BUCKET/DIR, which all hosts see, got '$workdir'."
    ;;
  create | install | delete)
    ((${#flags[@]} == 0)) || die "--action=$action takes no training flags, got '${flags[0]}'."
    ;;
  *) die "--action must be create, install, train, delete or all, got '$action'." ;;
esac
((DRY_RUN)) || command -v gcloud > /dev/null || die "no gcloud here: install the Google Cloud CLI and log in."

# The hosts get the file of --config as it is now, and the flag its path there. What is no
# file, e.g. the name of a configuration, is passed on.
find_config "${flags[@]}"
host_flags=()
for flag in "${flags[@]}"; do
  if [[ -n "$config_file" && "$flag" == --config="$config_file"* ]]; then
    flag="--config=../$HOST_CONFIG${flag#--config="$config_file"}"
  fi
  host_flags+=("$flag")
done

# One slice is a TPU VM. Several are the nodes NAME-0, NAME-1, ... of a queued resource,
# which has other names for the same things.
if ((slices == 1)); then
  tpu=(gcloud compute tpus tpu-vm)
  what=(--version="$version")
  everywhere=(--worker=all)
  deleting=(--quiet)
  state_field=state
  label_field=labels.facecycle_launch
else
  tpu=(gcloud compute tpus queued-resources)
  what=(--runtime-version="$version" --node-count="$slices" --node-prefix="$name")
  everywhere=(--node=all --worker=all)
  # With its nodes, also while they are there.
  deleting=(--quiet --force)
  state_field=state.state
  label_field="tpu.nodeSpec[0].node.labels.facecycle_launch"
fi
place=(--zone="$zone")
[[ -z "$project" ]] || place+=(--project="$project")
delete_command=("${tpu[@]}" delete "$name" "${place[@]}" "${deleting[@]}")
# A label by which the launcher knows its own machine.
launch="$(date +%Y%m%d-%H%M%S)-$$-$RANDOM"
# What this call knows of its machine: none; tried, after a `create` that may have made
# it; made.
machine=none
# Whether Google has made a machine for this very command before.
proven=0
# The process group of a command that must not end with the launcher, while it runs.
apart=""
status=0

# Makes a folder that only this user can write to, for what is copied to the hosts.
make_scratch() {
  if ((DRY_RUN)); then
    scratch="$(mktemp -u -d)"
    run mkdir -m 700 "$scratch"
  else
    scratch="$(mktemp -d)"
  fi
}

# Deletes the machine, if this call made it, and the folder; runs at the end, whatever
# the end.
clean_up() {
  local looks=1
  # A second Ctrl-C would leave the machine behind.
  trap '' INT TERM HUP

  # A `create` that goes on would make a machine after it was looked for.
  if [[ -n "$apart" ]]; then
    kill -TERM -- "-$apart" 2> /dev/null || true
    wait "$apart" || true
    looks=$MAX_LOOKS
  fi
  [[ "$machine" == none ]] || delete_own "$looks"
  rm -rf "$scratch"
}

# Deletes the machine, if this call made it. Where Google says that there is none, it is
# looked for so many times in all.
delete_own() {
  local looks="$1" look=1 attempt=1 owner
  while ((attempt <= MAX_DELETES)); do
    owner="$(machine_owner)"
    case "$machine:$owner" in
      *:nobody)
        ((look < looks)) || return 0
        look=$((look + 1))
        sleep "$LOOK_PAUSE"
        continue
        ;;
      tried:other) return 0 ;;
      tried:unknown) say "Google does not say whether it has made '$name': $(first_error)" ;;
      *)
        say "deleting the machine '$name'; this cannot be interrupted"
        if delete; then return 0; fi
        ;;
    esac

    say "attempt $attempt of $MAX_DELETES to delete '$name' has failed; IT MAY COST MONEY" \
      "until you run: $(quoted "${delete_command[@]}")"
    ((attempt == MAX_DELETES)) || sleep "$FIRST_PAUSE"
    attempt=$((attempt + 1))
  done
}

# Prints whose the machine of this name is: ours, other, nobody (there is none), or
# unknown if there is no answer. The label tells ours from the machine of somebody else
# who took the name.
machine_owner() {
  local label
  if label="$(describe "$label_field" 2> "$scratch/describe")"; then
    if [[ "$label" == "$launch" ]]; then echo ours; else echo other; fi
  elif is_missing; then
    echo nobody
  else
    echo unknown
  fi
}

# Whether the last description has failed because there is no such machine.
is_missing() {
  grep -qi "NOT_FOUND\|not found" "$scratch/describe"
}

# Prints the line that says why the last description has failed.
first_error() {
  grep -m 1 ERROR "$scratch/describe" || tail -n 1 "$scratch/describe"
}

# Runs a command in a process group of its own: Ctrl-C in the terminal does not reach it,
# and it can be stopped as a whole, which gcloud, a script that starts a program, cannot
# else. Its group is in `apart` while it runs.
run_apart() {
  local code=0
  set -m
  "$@" < /dev/null &
  apart=$!
  set +m
  wait "$apart" || code=$?
  apart=""
  return "$code"
}

# Runs a shell line on every host. A connection that is dead but not closed ends after 3
# minutes.
on_all_hosts() {
  run "${tpu[@]}" ssh "$name" "${place[@]}" --quiet "${everywhere[@]}" \
    --ssh-flag=-oServerAliveInterval=60 --command="$1"
}

# Runs a shell line on every host, on all of them at the same time. Of a queued resource
# gcloud serves 64 hosts, and the next ones only when these have ended; so each slice has
# a gcloud of its own.
on_all_hosts_at_once() {
  local i command session sessions=() code=0
  if ((slices == 1)); then
    on_all_hosts "$1"
    return
  fi

  for ((i = 0; i < slices; i++)); do
    command=(
      gcloud compute tpus tpu-vm ssh "$name-$i" "${place[@]}" --quiet --worker=all
      --ssh-flag=-oServerAliveInterval=60 --command="$1"
    )
    if ((DRY_RUN)); then
      run "${command[@]}"
    else
      "${command[@]}" &
      sessions+=($!)
    fi
  done
  for session in "${sessions[@]}"; do wait "$session" || code=$?; done
  return "$code"
}

# Copies a file of the scratch folder to the home folder on every host.
copy_to_hosts() {
  run "${tpu[@]}" scp "$scratch/$1" "$name:" "${place[@]}" --quiet "${everywhere[@]}"
}

# Prints one property of the machine.
describe() {
  run "${tpu[@]}" describe "$name" "${place[@]}" --format="value($1)"
}

# Prints how many hosts there are; nothing if there is no answer.
count_hosts() {
  local hosts node=()
  if ((slices == 1)); then
    node=("${tpu[@]}" describe "$name")
  else
    node=(gcloud compute tpus tpu-vm describe "$name-0")
  fi
  hosts="$("${node[@]}" "${place[@]}" --format="value(networkEndpoints.len())" 2> /dev/null)" || return 0
  if is_number "$hosts"; then echo "$((slices * hosts))"; fi
}

# Prints the state of the machine: READY, another word of Google's, MISSING, or UNKNOWN
# if there is no answer.
machine_state() {
  local state
  if state="$(describe "$state_field" 2> "$scratch/describe")"; then
    # A queued resource that is served.
    echo "${state/#ACTIVE/READY}"
  elif is_missing; then
    echo MISSING
  else
    say "Google does not answer: $(first_error)"
    say "if the login has expired, renew it in another terminal: gcloud auth login"
    echo UNKNOWN
  fi
}

# Dies if there is a machine of this name: it may be that of another training.
refuse_taken_name() {
  if ((DRY_RUN)); then
    describe "$state_field"
    echo "# ends here with exit status 2 if there is such a machine"
    return
  fi

  # Without an answer `create` is tried, which refuses a name that is taken, too.
  case "$(machine_state)" in
    MISSING | UNKNOWN) ;;
    *)
      die "there is a machine '$name' in $zone already: choose another --name, or delete" \
        "it with --action=delete."
      ;;
  esac
}

# Makes the machine. Returns 1 if it may be made later; dies if the command is mistaken.
create() {
  local command=(
    "${tpu[@]}" create "$name" "${place[@]}" --accelerator-type="$type" "${what[@]}"
    --labels=facecycle_launch="$launch" "${spot[@]}"
  )
  if ((DRY_RUN)); then
    run "${command[@]}"
    ((slices == 1)) || echo "# waits until the queued resource is ACTIVE"
    return
  fi

  warn_of_agent
  machine=tried
  if ! run_apart keep_output "$scratch/create" "${command[@]}"; then
    [[ "$(machine_owner)" != ours ]] || delete || true
    if ! ((proven)) && ! grep -Eq "$NO_CAPACITY" "$scratch/create"; then
      die "the machine cannot be made, see above."
    fi
    return 1
  fi

  machine=made
  if ! wait_for_slices; then
    delete || machine=tried
    return 1
  fi
  proven=1
}

# Runs a command, and keeps a copy of its output in a file.
keep_output() {
  local file="$1"
  shift
  # Whoever stops the command waits for this to end, which must not be before it.
  trap : TERM
  "$@" 2>&1 | tee "$file"
}

# Warns if an ssh-agent runs without gcloud's key: gcloud then refuses, or stalls, when
# it is to reach several hosts, and the machine costs money by then.
warn_of_agent() {
  local key=~/.ssh/google_compute_engine keys fingerprint answer=0
  keys="$(ssh-add -l 2> /dev/null)" || answer=$?
  # 1 is an agent without keys; else there is no agent.
  ((answer <= 1)) || return 0

  fingerprint="$(ssh-keygen -lf "$key" 2> /dev/null | cut -d ' ' -f 2)" || true
  if [[ -z "$fingerprint" || "$keys" != *"$fingerprint"* ]]; then
    say "the ssh-agent that runs here does not hold $key, without which gcloud may not reach" \
      "several hosts; add it with: ssh-add $key"
  fi
}

# Waits until a queued resource is served, for as long as it stands in the queue; fails
# if it never will be. One slice is there as soon as it is made.
wait_for_slices() {
  local state
  ((slices > 1)) || return 0
  say "waiting until Google serves all $slices slices"
  while true; do
    state="$(machine_state)"
    case "$state" in
      READY) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING | MISSING)
        say "the queued resource is $state, which Google explains so:"
        run "${tpu[@]}" describe "$name" "${place[@]}" --format="yaml(state)" >&2 || true
        return 1
        ;;
    esac
    sleep "$FIRST_PAUSE"
  done
}

# Deletes the machine.
delete() {
  run_apart run "${delete_command[@]}" || return 1
  machine=none
}

# Packs what is committed now: a restart installs the same, whatever is committed
# meanwhile.
pack() {
  run git -C "$ROOT" archive --format=tar.gz --prefix=facecycle_jax/ \
    --output="$scratch/facecycle_jax.tar.gz" HEAD
}

# Copies the configuration as it is now; a restart uses the same.
keep_config() {
  [[ -z "$config_file" ]] || run cp "$config_file" "$scratch/$HOST_CONFIG"
}

# Installs the package on all hosts and mounts the buckets; fails if a host does not
# take ssh yet.
install() {
  copy_to_hosts facecycle_jax.tar.gz || return 1
  # The hosts' own Python may be older than the package needs; uv brings one.
  on_all_hosts "tar xzf facecycle_jax.tar.gz && cd facecycle_jax &&
 python3 -m pip install --quiet --user uv &&
 ~/.local/bin/uv venv --quiet --allow-existing --python 3.12 .venv &&
 ~/.local/bin/uv pip install --quiet --python .venv '.[tpu,tf]' gcsfs" || return 1
  mount_buckets
}

# Mounts the buckets on all hosts, where they are not mounted yet.
mount_buckets() {
  local mount words
  for mount in "${mounts[@]}"; do
    parse_mount "$mount"
    words="$(quoted "$bucket" "$prefix" "$directory")"
    on_all_hosts "facecycle_jax/launch/tpu_host.sh mount $words" || return 1
  done
}

# Copies the configuration to all hosts.
send_config() {
  [[ -z "$config_file" ]] || copy_to_hosts "$HOST_CONFIG"
}

# Trains, through dropped ssh sessions; sets `status` to how it ended.
#
#   train RUN
#
# gcloud does not pass on how a command ended on the hosts: each host prints that. As
# long as answers are missing and the machine is there, the hosts are asked again.
train() {
  local command hosts="" contacts expected silent=0 answers=()
  command="facecycle_jax/launch/tpu_host.sh train"
  command+=" $(quoted "$1" "$workdir/xla_cache" "${host_flags[@]}")"
  if ((DRY_RUN)); then
    on_all_hosts_at_once "$command"
    return
  fi

  : > "$scratch/answers"
  while true; do
    is_number "$hosts" || hosts="$(count_hosts)"
    on_all_hosts_at_once "$command" 2>&1 | tee "$scratch/session" || true
    sed -n '/FACECYCLE_EXIT/p' "$scratch/session" >> "$scratch/answers"
    contacts="$(sed -n 's/.*FACECYCLE_CONTACT of=//p' "$scratch/session" | sort -u | wc -l)"

    # One host's mistake or defect is final; the others need not be waited for. As long as
    # Google does not say how many hosts there are, one more than answer is expected.
    mapfile -t answers < <(reported_statuses "$scratch/answers")
    expected="${hosts:-$(((${#answers[@]} > contacts ? ${#answers[@]} : contacts) + 1))}"
    status="$(worst_status "$expected" "${answers[@]}")"
    if ((${#answers[@]} >= expected)) || ! can_restart "$status"; then
      return
    fi

    case "$(machine_state)" in
      READY)
        silent=$((contacts >= expected ? 0 : silent + 1))
        ((silent < MAX_SILENT)) || return 0
        ;;
      # Google does not answer either: nothing can be said of the machine, nor done.
      UNKNOWN) ;;
      # Taken away, or stopped.
      *) return ;;
    esac
    say "the session with the hosts has ended, but not the training; connecting again"
    wait_longer "$silent"
  done
}

# Sleeps, the longer the more attempts have failed in a row (0, 1, ...).
wait_longer() {
  local pause=$FIRST_PAUSE i
  for ((i = 0; i < $1 && pause < LONGEST_PAUSE; i++)); do pause=$((pause * 2)); done
  sleep "$((pause < LONGEST_PAUSE ? pause : LONGEST_PAUSE))"
}

# Trains to the end, on a new machine after each loss; sets `status`.
train_through_losses() {
  local start no_machine=0 no_install=0 fruitless=0 trained=0 before after
  for ((start = 0; start <= restarts; start++)); do
    if ((no_machine + no_install)); then
      say "trying again after a pause"
      wait_longer "$((no_machine + no_install - 1))"
    fi
    status=$LOST_EXIT

    # No capacity, or ssh not ready: that counts as a start, too, so that it comes to an
    # end.
    if ! { [[ "$machine" == made ]] || create; }; then
      say "there is no machine yet"
      no_machine=$((no_machine + 1))
      continue
    fi
    no_machine=0
    if ! { install && send_config; }; then
      no_install=$((no_install + 1))
      say "the hosts could not be set up, attempt $no_install of $MAX_INSTALLS"
      ((no_install < MAX_INSTALLS)) || return 0
      continue
    fi
    no_install=0

    before="$(checkpoint_progress "$workdir")"
    train "$launch-$start"
    if ! can_restart "$status"; then
      return
    fi

    # The first start may fail before any checkpoint. Restarts that bring none would go
    # on like that.
    after="$(checkpoint_progress "$workdir")"
    if reached_checkpoint "$before" "$after"; then
      fruitless=0
    else
      fruitless=$((fruitless + trained))
    fi
    trained=1
    if ((fruitless >= MAX_FRUITLESS)); then
      say "the training ended with $status, and $fruitless restarts in a row reached no" \
        "new checkpoint: this is the end"
      return
    fi
    say "the training ended with $status; machine and training are started again"
    # What was taken away may be there still, or not: the next `create` or the end sees
    # to it.
    delete || machine=tried
  done
}

# Prints what `all` does.
print_all() {
  create
  install
  send_config
  echo "# for the newest checkpoint: gcloud storage ls $workdir/checkpoints/ $workdir/*/checkpoints/"
  train "$launch-0"
  echo "# the same again"
  delete
  echo "# again from 'create' on after 69, 75 or death by a signal but SIGINT, at most" \
    "$restarts times, and at most $MAX_FRUITLESS times in a row without a new checkpoint"
  echo "# 'create' and 'install' again, after a pause, if they fail"
}

make_scratch
((DRY_RUN)) || trap clean_up EXIT
case "$action" in
  create)
    refuse_taken_name
    create || exit "$LOST_EXIT"
    # It stays.
    machine=none
    ;;
  install)
    pack
    install || exit "$LOST_EXIT"
    ;;
  delete)
    delete || die "'$name' could not be deleted, see above."
    ;;
  train)
    keep_config
    send_config || exit "$LOST_EXIT"
    mount_buckets || exit "$LOST_EXIT"
    train "$launch"
    exit "$status"
    ;;
  all)
    pack
    keep_config
    refuse_taken_name
    if ((DRY_RUN)); then
      print_all
    else
      train_through_losses
    fi
    exit "$status"
    ;;
esac
