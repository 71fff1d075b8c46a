#!/usr/bin/env bash
# Trains in several processes on this machine, each with simulated CPU devices. They
# communicate over the loopback network, as the processes of a cluster do over theirs.
#
#   launch/local_multiprocess.sh [--processes=2] [--devices=4] [--port=PORT]
#       [--logs=DIR] [--dry-run]
#       --config=FILE --workdir=DIR [--config.FIELD=VALUE ...]
#
# --processes  number of processes (2)
# --devices    simulated devices of each (4); config.batch_size must be a multiple of
#              processes x devices
# --port       port of process 0 on the loopback network (a free one)
# --logs       directory for process-<i>.log (WORKDIR/logs)
#
# SIGTERM and SIGINT are passed on to every process as SIGTERM. The exit status is that
# of a process that ended with a mistake or a defect, if there is one. Otherwise it is
# 75 if a process ended with 75, else that of a lost process, else 0.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=launch/restarts.sh
source "$ROOT/launch/restarts.sh"

processes=2
devices=4
port=""
logs=""
workdir=""
flags=()
for argument in "$@"; do
  case "$argument" in
    -h | --help) help ;;
    --dry-run) DRY_RUN=1 ;;
    --processes=*) processes="$(value "$argument")" ;;
    --devices=*) devices="$(value "$argument")" ;;
    --port=*) port="$(value "$argument")" ;;
    --logs=*) logs="$(value "$argument")" ;;
    *) take_flag "$argument" ;;
  esac
done
check_flags "${flags[@]}"
find_config "${flags[@]}"

is_number "$processes" || die "--processes must be a whole number above 0, got '$processes'."
is_number "$devices" || die "--devices must be a whole number above 0, got '$devices'."
[[ -n "$logs" || "$workdir" != *://* ]] || die "--logs=DIR is needed, as $workdir is not a local directory."
logs="${logs:-$workdir/logs}"

free_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
[[ -n "$port" ]] || port="$("$PYTHON" -c "$free_port")"
if ! is_number "$port" || ((${#port} > 5 || port > 65535)); then
  die "--port must be a whole number from 1 to 65535, got '$port'."
fi

run mkdir -p "$logs"
children=()
for ((i = 0; i < processes; i++)); do
  command=(
    env PYTHONPATH="$IMPORTS" JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$devices"
    JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo JAX_COMPILATION_CACHE_DIR="$CACHE"
    FACECYCLE_DISTRIBUTED=1
    JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$processes" JAX_PROCESS_ID="$i"
    "${TRAINING[@]}" "${flags[@]}"
  )
  if ((DRY_RUN)); then
    echo "$(quoted "${command[@]}") > $(quoted "$logs/process-$i.log") 2>&1 &"
  else
    "${command[@]}" > "$logs/process-$i.log" 2>&1 &
    children+=($!)
  fi
done
if ((DRY_RUN)); then exit 0; fi

trap 'kill -TERM "${children[@]}" 2> /dev/null || true' TERM INT
echo "$processes processes with $devices devices each; their logs are $logs/process-*.log"

statuses=()
for ((i = 0; i < processes; i++)); do
  # A signal to this script interrupts `wait` although the process is still running, so
  # repeat it until the process is gone. The last `wait` has its exit status.
  while true; do
    status=0
    wait "${children[i]}" || status=$?
    kill -0 "${children[i]}" 2> /dev/null || break
  done

  statuses+=("$status")
  if ((status)); then
    echo "process $i ended with $status: $(tail -n 1 "$logs/process-$i.log")" >&2
  fi
done
exit "$(worst_status "$processes" "${statuses[@]}")"
