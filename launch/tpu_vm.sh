#!/usr/bin/env bash
# Trains on a Cloud TPU VM or pod slice: makes it, installs the package on all its hosts, trains, starts again
# after preemption, deletes it.
#
#   launch/tpu_vm.sh [--action=all] [--name=facecycle] [--zone=us-central1-a] [--project=P] [--type=v5litepod-16]
#       [--version=V] [--spot] [--restarts=20] [--dry-run]
#       --config=FILE --workdir=gs://BUCKET/DIR [--config.FIELD=VALUE ...]
#
# --action    create, install, train, delete, or all: the first three, again after each preemption, then delete
# --type      accelerator type, e.g. v4-32, v5litepod-16, v5p-32, v6e-16
# --version   software of the hosts (else the one that belongs to the type)
# --spot      a cheaper machine that may be taken away
# --restarts  how often to go on after a preemption or a lost host (20)
#
# Needs gcloud, logged in. What is committed is what is installed. Compiled programs are kept in
# WORKDIR/xla_cache. `create` leaves a machine that costs money until `delete`; `all` deletes it, whatever the end.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

action=all
name=facecycle
zone=us-central1-a
project=""
type=v5litepod-16
version=""
spot=()
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
    --version=*) version="$(value "$argument")" ;;
    --spot) spot=(--spot) ;;
    --restarts=*) restarts="$(value "$argument")" ;;
    *)
      [[ "$argument" != --workdir=* ]] || workdir="$(value "$argument")"
      flags+=("$argument")
      ;;
  esac
done
is_number "$restarts" || die "--restarts must be a whole number above 0, got '$restarts'."
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

tpu=(gcloud compute tpus tpu-vm)
place=(--zone="$zone")
[[ -z "$project" ]] || place+=(--project="$project")

on_all_hosts() {
  run "${tpu[@]}" ssh "$name" "${place[@]}" --worker=all --command="$1"
}

create() {
  run "${tpu[@]}" create "$name" "${place[@]}" --accelerator-type="$type" --version="$version" "${spot[@]}"
}

delete() {
  run "${tpu[@]}" delete "$name" "${place[@]}" --quiet
}

install() {
  local archive=facecycle_jax.tar.gz
  run git -C "$ROOT" archive --format=tar.gz --prefix=facecycle_jax/ --output="/tmp/$archive" HEAD
  run "${tpu[@]}" scp "/tmp/$archive" "$name:" "${place[@]}" --worker=all
  # The hosts' own Python may be older than the package needs; uv brings one.
  on_all_hosts "tar xzf $archive && cd facecycle_jax && python3 -m pip install --quiet --user uv &&
 ~/.local/bin/uv venv --quiet --allow-existing --python 3.12 .venv &&
 ~/.local/bin/uv pip install --quiet --python .venv '.[tpu,tf]' gcsfs"
}

# Trains; sets `status` to the exit status of the training, 1 where a host was lost before it could tell.
train() {
  local command output
  command="cd facecycle_jax && FACECYCLE_DISTRIBUTED=1 JAX_COMPILATION_CACHE_DIR=$(quoted "$workdir/xla_cache")"
  command+=" .venv/bin/python -m facecycle_jax.main $(quoted "${flags[@]}"); echo EXIT_STATUS=\$?"
  status=0
  if ((DRY_RUN)); then
    on_all_hosts "$command"
    return
  fi
  output="$(mktemp)"
  on_all_hosts "$command" 2>&1 | tee "$output" || status=1
  # gcloud does not pass on how the command ended on the hosts; the worst of what they printed counts.
  local printed
  printed="$(sed -n 's/.*EXIT_STATUS=\([0-9]*\).*/\1/p' "$output" | sort -n | tail -n 1)"
  rm -f "$output"
  status="${printed:-1}"
}

case "$action" in
  create) create ;;
  install) install ;;
  delete) delete ;;
  train)
    train
    exit "$status"
    ;;
  all)
    trap delete EXIT
    for ((start = 0; start <= restarts; start++)); do
      create
      install
      train
      case "$status" in
        0 | 2 | 3) break ;;
      esac
      echo "${0##*/}: the training ended with $status; machine and training are started again" >&2
      delete || true
    done
    if ((DRY_RUN)); then
      echo "# again from the first command on while the training ends otherwise than with 0, 2 or 3, at most $restarts times"
    fi
    exit "$status"
    ;;
esac
