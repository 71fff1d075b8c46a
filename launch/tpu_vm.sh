#!/usr/bin/env bash
# Trains on a Cloud TPU VM, a pod slice or several slices. Creates them, installs the
# package on all hosts, trains, starts again after preemption, and deletes them.
#
#   launch/tpu_vm.sh [--action=all] [--name=facecycle] [--zone=us-central1-a]
#       [--project=P] [--type=v5litepod-16] [--slices=1] [--version=V] [--spot]
#       [--mount=gs://BUCKET[/PREFIX]:/DIR ...] [--restarts=20] [--dry-run]
#       --config=FILE --workdir=gs://BUCKET/DIR [--config.FIELD=VALUE ...]
#
# --action    create, install, train, delete, or all, which does the first three, again
#             after each preemption, and then deletes
# --type      accelerator type, e.g. v4-32, v5litepod-16, v5p-32, v6e-16
# --slices    number of slices of this type, joined by the data-centre network; several
#             are one queued resource, and the launcher waits until Google provides it
# --version   software version of the hosts (else the one that belongs to the type)
# --spot      a cheaper machine that may be taken away
# --mount     makes a bucket readable at /DIR on all hosts, for data and weights; may be
#             repeated
# --restarts  how often to go on after a preemption, a lost host, or a machine that
#             could not be created (20); after 3 restarts in a row without a new
#             checkpoint it ends
#
# This needs gcloud, logged in. The hosts get the committed state of the repository and
# the file of --config; all other paths are those of the hosts. Compiled programs are
# kept in WORKDIR/xla_cache.
#
# `create` makes a machine that costs money until `delete`. `all` always deletes the
# machine it has made, also after an error or Ctrl-C, and Ctrl-C cannot interrupt the
# deletion. If a machine of this name exists already, the launcher refuses to start and
# leaves it alone.
#
# If an ssh-agent runs here, it must hold gcloud's key before a machine of several hosts
# is used: ssh-add ~/.ssh/google_compute_engine. The training outlives a dropped ssh
# session, and `--action=train` with the same flags finds it again. The exit status is
# that of the training.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=launch/restarts.sh
source "$ROOT/launch/restarts.sh"

# Seconds between attempts. Each pause is twice the one before, up to the longest.
FIRST_PAUSE=30
LONGEST_PAUSE=600
# The number of attempts to install in a row. ssh needs some minutes on a new machine,
# but the machine costs money.
MAX_INSTALLS=5
# The number of sessions in a row in which a host does not answer, although Google
# reports the machine as ready.
MAX_SILENT=5
# The number of attempts to delete the machine, FIRST_PAUSE seconds apart. Google may
# refuse as long as it is still creating the machine.
MAX_DELETES=6
# How often a machine is looked for whose `create` was stopped, and the seconds in
# between. Google may show it only after a moment.
MAX_LOOKS=3
LOOK_PAUSE=10
# Google's words when it has no machine to give, or cannot serve the request now.
NO_CAPACITY='RESOURCE_EXHAUSTED|no more capacity|UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL|ABORTED'

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

# The hosts get a copy of the --config file as it is now, and the flag gets the path of
# that copy, seen from ~/facecycle_jax. The name of a config, which is not a file, is
# passed on.
find_config "${flags[@]}"
# The copy is named after its content, because a host that trains already goes on only if
# it is called with the same flags.
HOST_CONFIG=""
[[ -z "$config_file" ]] || HOST_CONFIG="facecycle_config_$(cksum < "$config_file" | cut -d ' ' -f 1).py"
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
  # --force deletes the nodes too.
  deleting=(--quiet --force)
  state_field=state.state
  label_field="tpu.nodeSpec[0].node.labels.facecycle_launch"
fi
place=(--zone="$zone")
[[ -z "$project" ]] || place+=(--project="$project")
delete_command=("${tpu[@]}" delete "$name" "${place[@]}" "${deleting[@]}")
# A label by which the launcher recognises its own machine.
launch="$(date +%Y%m%d-%H%M%S)-$$-$RANDOM"
# What this call knows of its machine: none; tried, after a `create` that may have made
# it; or made.
machine=none
# 1 once Google has made a machine for this command, which proves that it is right.
proven=0
# The process group of a command that runs apart from the launcher, while it runs.
apart=""
# The exit status of the training.
status=0

# Makes a folder that only this user can write to, for files that are copied to the
# hosts. Sets `scratch`.
make_scratch() {
  if ((DRY_RUN)); then
    scratch="$(mktemp -u -d)"
    run mkdir -m 700 "$scratch"
  else
    scratch="$(mktemp -d)"
  fi
}

# Deletes the machine, if this call made it, and the folder. It runs at every exit.
clean_up() {
  local looks=1
  # Otherwise a second Ctrl-C would leave the machine behind.
  trap '' INT TERM HUP

  # Stop a `create` that is still running, which could make a machine later. The machine
  # may then appear with a delay, so it is looked for several times.
  if [[ -n "$apart" ]]; then
    kill -TERM -- "-$apart" 2> /dev/null || true
    wait "$apart" || true
    looks=$MAX_LOOKS
  fi
  [[ "$machine" == none ]] || delete_own "$looks"
  rm -rf "$scratch"
}

# Deletes the machine, if this call made it. If Google reports that there is none, looks
# for it again until it has looked LOOKS times.
#
#   delete_own LOOKS
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

# Prints who owns the machine of this name: ours, other, nobody (there is none), or
# unknown (there is no answer). The label distinguishes our machine from one of the same
# name that somebody else has made.
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

# Succeeds if the last `describe` has failed because there is no such machine.
is_missing() {
  grep -qi "NOT_FOUND\|not found" "$scratch/describe"
}

# Prints the line that states why the last `describe` has failed.
first_error() {
  grep -m 1 ERROR "$scratch/describe" || tail -n 1 "$scratch/describe"
}

# Runs a command in a process group of its own, which is in `apart` while it runs.
# Ctrl-C in the terminal does not reach the group, and it can be stopped as a whole.
# That matters because gcloud is a script that starts a program.
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

# Runs a shell line on every host. ssh gives up a connection that has been dead for 3
# minutes.
on_all_hosts() {
  run "${tpu[@]}" ssh "$name" "${place[@]}" --quiet "${everywhere[@]}" \
    --ssh-flag=-oServerAliveInterval=60 --command="$1"
}

# Runs a shell line on every host, on all of them at the same time. For a queued
# resource, gcloud runs the line on 64 hosts, and on the next ones only when these have
# ended. Therefore each slice gets a gcloud of its own.
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

# Prints one property of the machine, by the name of its field.
describe() {
  run "${tpu[@]}" describe "$name" "${place[@]}" --format="value($1)"
}

# Prints the number of hosts of all slices; nothing if there is no answer.
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

# Prints the state of the machine: READY or another of Google's states, MISSING if there
# is not a machine, or UNKNOWN if there is no answer.
machine_state() {
  local state
  if state="$(describe "$state_field" 2> "$scratch/describe")"; then
    # A queued resource that Google has provided is ACTIVE.
    echo "${state/#ACTIVE/READY}"
  elif is_missing; then
    echo MISSING
  else
    say "Google does not answer: $(first_error)"
    say "if the login has expired, renew it in another terminal: gcloud auth login"
    echo UNKNOWN
  fi
}

# Ends the launcher if there is a machine of this name, because it may be in use by
# another training.
refuse_taken_name() {
  if ((DRY_RUN)); then
    describe "$state_field"
    echo "# ends here with exit status 2 if there is such a machine"
    return
  fi

  # Without an answer, go on: `create` also refuses a name that is taken.
  case "$(machine_state)" in
    MISSING | UNKNOWN) ;;
    *)
      die "there is a machine '$name' in $zone already: choose another --name, or delete" \
        "it with --action=delete."
      ;;
  esac
}

# Makes the machine. Returns 1 if a later attempt may succeed. Ends the launcher if the
# command is mistaken.
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

# Runs a command and keeps a copy of its output in a file.
#
#   keep_output FILE COMMAND...
keep_output() {
  local file="$1"
  shift
  # SIGTERM to the process group must not end this function before the command has
  # ended, because `clean_up` waits for it.
  trap : TERM
  "$@" 2>&1 | tee "$file"
}

# Warns if an ssh-agent runs without gcloud's key. gcloud would then fail or hang when
# it connects to several hosts, and by then the machine costs money.
warn_of_agent() {
  local key=~/.ssh/google_compute_engine keys fingerprint answer=0
  keys="$(ssh-add -l 2> /dev/null)" || answer=$?
  # 0 and 1 mean that there is an agent, with or without keys; 2 that there is none.
  ((answer <= 1)) || return 0

  fingerprint="$(ssh-keygen -lf "$key" 2> /dev/null | cut -d ' ' -f 2)" || true
  if [[ -z "$fingerprint" || "$keys" != *"$fingerprint"* ]]; then
    say "the ssh-agent that runs here does not hold $key, without which gcloud may not reach" \
      "several hosts; add it with: ssh-add $key"
  fi
}

# Waits until Google has provided a queued resource. Fails if it never will. A single
# slice is there as soon as it is created.
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

# Packs the state of the repository that is committed now. A restart installs the same,
# even if more has been committed by then.
pack() {
  run git -C "$ROOT" archive --format=tar.gz --prefix=facecycle_jax/ \
    --output="$scratch/facecycle_jax.tar.gz" HEAD
}

# Keeps a copy of the config file as it is now, so that a restart uses the same.
keep_config() {
  [[ -z "$config_file" ]] || run cp "$config_file" "$scratch/$HOST_CONFIG"
}

# Installs the package on all hosts and mounts the buckets. Fails if a host does not
# accept ssh yet.
install() {
  copy_to_hosts facecycle_jax.tar.gz || return 1
  # The hosts' own Python may be older than the package needs; uv brings one.
  on_all_hosts "tar xzf facecycle_jax.tar.gz && cd facecycle_jax &&
 python3 -m pip install --quiet --user uv &&
 ~/.local/bin/uv venv --quiet --allow-existing --python 3.12 .venv &&
 ~/.local/bin/uv pip install --quiet --python .venv '.[tpu,tf,hub,fast]' gcsfs" || return 1
  mount_buckets
}

# Mounts the buckets on all hosts that have not mounted them yet.
mount_buckets() {
  local mount words
  for mount in "${mounts[@]}"; do
    parse_mount "$mount"
    words="$(quoted "$bucket" "$prefix" "$directory")"
    on_all_hosts "facecycle_jax/launch/tpu_host.sh mount $words" || return 1
  done
}

# Copies the config file to all hosts.
send_config() {
  [[ -z "$config_file" ]] || copy_to_hosts "$HOST_CONFIG"
}

# Trains and sets `status` to the exit status. Dropped ssh sessions do not end it.
#
#   train RUN
#
# gcloud does not return the exit statuses of the hosts, so each host prints its own. As
# long as statuses are missing and the machine exists, connects to the hosts again.
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

    # A mistake or a defect of one host is final, so do not wait for the others. If
    # Google has not answered how many hosts there are, expect one more than have
    # answered.
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
      # Google does not answer either, so try again.
      UNKNOWN) ;;
      # Taken away, or stopped.
      *) return ;;
    esac
    say "the session with the hosts has ended, but not the training; connecting again"
    wait_longer "$silent"
  done
}

# Sleeps for a time that grows with the number of attempts that have failed in a row.
#
#   wait_longer FAILED
wait_longer() {
  local pause=$FIRST_PAUSE i
  for ((i = 0; i < $1 && pause < LONGEST_PAUSE; i++)); do pause=$((pause * 2)); done
  sleep "$((pause < LONGEST_PAUSE ? pause : LONGEST_PAUSE))"
}

# Trains to the end, on a new machine after each loss. Sets `status`.
train_through_losses() {
  local start no_machine=0 no_install=0 fruitless=0 trained=0 before after
  for ((start = 0; start <= restarts; start++)); do
    if ((no_machine + no_install)); then
      say "trying again after a pause"
      wait_longer "$((no_machine + no_install - 1))"
    fi
    status=$LOST_EXIT

    # An attempt without capacity or ssh counts as a start too, so that there is an end.
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

    # The first start may fail before it has reached a checkpoint; it is not counted.
    # Restarts that reach none are likely to go on like that.
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
    # If that fails, a machine that was taken away may still exist. The next `create`,
    # or `clean_up`, deletes it.
    delete || machine=tried
  done
}

# Prints the commands of `all`.
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
    # So that `clean_up` does not delete it.
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
