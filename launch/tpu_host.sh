#!/usr/bin/env bash
# Runs on every host of a TPU, started by launch/tpu_vm.sh. The repository is
# ~/facecycle_jax there.
#
#   launch/tpu_host.sh mount BUCKET PREFIX DIR
#   launch/tpu_host.sh train RUN CACHE FLAG...
#
# mount  makes a bucket, or what is under PREFIX in it, readable at DIR; installs
#        gcsfuse if it is missing
# train  starts the training named RUN unless it has been started, prints its log until
#        it ends, and prints how it ended; compiled programs are kept in CACHE
#
# The training does not depend on the ssh session that starts it. After a dropped
# session the same `train` finds it again. Its name, flags and log, the number of the
# process that waits for it, and later its exit status are kept in ~/facecycle_run.
# Those of the previous training are in ~/facecycle_run.before.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/restarts.sh
source launch/restarts.sh

RUN="$HOME/facecycle_run"
HOST="$(hostname)"
# File that records what has been mounted: lines of a directory, a tab and the bucket
# with its prefix.
MOUNTS="$HOME/facecycle_mounts"
# The exit status of a training whose status was not recorded, because the process that
# waits for it was killed too, or the host has rebooted: 128 + SIGKILL.
KILLED_EXIT=137

# Installs gcsfuse from Google's package archive. Waits if another process, at the first
# boot, holds the lock of apt.
install_gcsfuse() {
  local archive=https://packages.cloud.google.com/apt
  local key=/usr/share/keyrings/cloud.google.asc
  curl -fsSL "$archive/doc/apt-key.gpg" | sudo tee "$key" > /dev/null
  echo "deb [signed-by=$key] $archive gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null

  sudo apt-get -o DPkg::Lock::Timeout=300 -qq update
  sudo apt-get -o DPkg::Lock::Timeout=300 -qq install gcsfuse
}

# Mounts a bucket for reading unless that has been done. Fails if something else is
# mounted there.
#
#   mount_bucket BUCKET PREFIX DIR
mount_bucket() {
  local bucket="$1" prefix="$2" directory="$3"
  local source="gs://$bucket${prefix:+/$prefix}" mounted=""
  local options=(--implicit-dirs -o ro)
  if mountpoint -q "$directory"; then
    # The system's list of mounts does not have the prefix, so read it from the file.
    if [[ -e "$MOUNTS" ]]; then
      mounted="$(awk -F '\t' -v directory="$directory" '$1 == directory { last = $2 } END { print last }' "$MOUNTS")"
    fi
    if [[ "$mounted" == "$source" ]]; then return; fi
    echo "tpu_host.sh: $source cannot be mounted at $directory of $HOST, where" \
      "${mounted:-something else} is: name another directory in --mount, or unmount it with" \
      "fusermount -u $directory." >&2
    return 1
  fi

  command -v gcsfuse > /dev/null || install_gcsfuse
  sudo mkdir -p "$directory"
  sudo chown "$(id -u)" "$directory"
  [[ -z "$prefix" ]] || options+=(--only-dir "$prefix")
  gcsfuse "${options[@]}" "$bucket" "$directory"
  printf '%s\t%s\n' "$directory" "$source" >> "$MOUNTS"
}

# Succeeds if the process that waits for the training is running. Its number alone does
# not prove that, because after a reboot another program may have it.
is_training() {
  local pid
  pid="$(cat "$RUN/pid" 2> /dev/null)" || return 1
  grep -qs tpu_host.sh "/proc/$pid/cmdline"
}

# Trains and records the exit status. It is a process of its own, started by `start`.
#
#   attend CACHE FLAG...
attend() {
  local cache="$1" status=0
  shift
  echo $$ > "$RUN/pid"
  # When the host shuts down, every process gets SIGTERM. This one must wait until the
  # training has saved its state.
  trap 'echo "tpu_host.sh: asked to stop, the training saves first"' TERM

  FACECYCLE_DISTRIBUTED=1 JAX_COMPILATION_CACHE_DIR="$cache" \
    .venv/bin/python -m facecycle_jax.main "$@" || status=$?

  echo "$status" > "$RUN/exit_status.part"
  mv "$RUN/exit_status.part" "$RUN/exit_status"
}

# Starts the training in the background, without a terminal or a session. Fails if it
# does not start within 10 seconds.
#
#   start RUN CACHE FLAG...
start() {
  local name="$1" cache="$2" i
  shift 2
  rm -rf "$RUN.before"
  [[ ! -d "$RUN" ]] || mv "$RUN" "$RUN.before"
  mkdir "$RUN"
  echo "$name" > "$RUN/name"
  printf '%s\n' "$@" > "$RUN/flags"

  setsid nohup launch/tpu_host.sh attend "$cache" "$@" > "$RUN/log" 2>&1 < /dev/null &
  for ((i = 0; i < 100; i++)); do
    if [[ -s "$RUN/pid" ]]; then return; fi
    sleep 0.1
  done
  echo "tpu_host.sh: the training could not be started: $(tail -n 1 "$RUN/log")"
  return 1
}

# Finds or starts the training and follows it to its end.
#
#   train RUN CACHE FLAG...
train() {
  local name="$1" cache="$2" lines="+1"
  shift 2
  if is_training; then
    # A training with these flags is followed even if another call of the launcher has
    # started it.
    if [[ "$(cat "$RUN/flags")" != "$(printf '%s\n' "$@")" ]]; then
      echo "tpu_host.sh: another training runs on this host already," \
        "with $(tr '\n' ' ' < "$RUN/flags")"
      report_status "$HOST" 2
      return
    fi
    lines=20
  elif [[ "$(cat "$RUN/name" 2> /dev/null)" == "$name" ]]; then
    lines=20
  else
    start "$name" "$cache" "$@"
  fi

  # This line proves to the launcher that the host answers.
  echo "FACECYCLE_CONTACT of=$HOST"

  # With --pid, `tail -f` ends when that process does.
  if is_training; then
    tail --lines="$lines" --pid="$(cat "$RUN/pid")" -f "$RUN/log" || true
  else
    tail --lines="$lines" "$RUN/log" || true
  fi
  report_status "$HOST" "$(cat "$RUN/exit_status" 2> /dev/null || echo "$KILLED_EXIT")"
}

action="$1"
shift
case "$action" in
  mount) mount_bucket "$@" ;;
  attend) attend "$@" ;;
  train) train "$@" ;;
esac
