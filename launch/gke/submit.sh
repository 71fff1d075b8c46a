#!/usr/bin/env bash
# Runs training on the TPUs of a GKE cluster: a JobSet, queued by Kueue, started again after preemption.
#
#   launch/gke/submit.sh --image=IMAGE [--topology=v5e:4x4] [--queue=multislice-queue] [--name=facecycle]
#       [--restarts=100] [--dry-run] --config=FILE --workdir=gs://BUCKET/DIR [--config.FIELD=VALUE ...]
#
# --image     container image with the package, see launch/gke/Dockerfile
# --topology  slice, as launch/compile_check.py names it: v4, v5e, v5p or v6e and the chips along each side
# --queue     Kueue's LocalQueue
# --name      of the JobSet
# --restarts  how often to start again; exit codes 2 and 3, which would come again, are not
#
# --config is a file of the image, e.g. configs/motion_cycle.py. Needs kubectl, and in the cluster JobSet and
# Kueue. Compiled programs are kept in WORKDIR/xla_cache. With --dry-run the manifest is printed.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

topology=v5e:4x4
queue=multislice-queue
name=facecycle
restarts=100
image=""
workdir=""
flags=()
for argument in "$@"; do
  case "$argument" in
    -h | --help) help ;;
    --dry-run) DRY_RUN=1 ;;
    --topology=*) topology="$(value "$argument")" ;;
    --queue=*) queue="$(value "$argument")" ;;
    --name=*) name="$(value "$argument")" ;;
    --restarts=*) restarts="$(value "$argument")" ;;
    --image=*) image="$(value "$argument")" ;;
    *)
      [[ "$argument" != --workdir=* ]] || workdir="$(value "$argument")"
      flags+=("$argument")
      ;;
  esac
done
check_flags "${flags[@]}"
[[ -n "$image" ]] || die "--image=IMAGE is missing; launch/gke/Dockerfile makes one."
[[ "$workdir" == gs://* ]] || die "--workdir must be gs://BUCKET/DIR, which all pods see, got '$workdir'."
is_number "$restarts" || die "--restarts must be a whole number above 0, got '$restarts'."
label='^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$'
[[ "$name" =~ $label ]] || die "--name must be small letters, digits and dashes, at most 40, got '$name'."
[[ "$queue" =~ $label ]] || die "--queue must be small letters, digits and dashes, at most 40, got '$queue'."
[[ "$topology" =~ ^(v4|v5p):([1-9][0-9]*)x([1-9][0-9]*)x([1-9][0-9]*)$ ]] ||
  [[ "$topology" =~ ^(v5e|v6e):([1-9][0-9]*)x([1-9][0-9]*)$ ]] ||
  die "--topology must be e.g. v5e:4x4, v6e:4x4, v4:2x2x2 or v5p:2x2x2, got '$topology'."
total=$((BASH_REMATCH[2] * BASH_REMATCH[3] * ${BASH_REMATCH[4]:-1}))
# Four chips on a host, but for smaller slices.
chips=$((total < 4 ? total : 4))
declare -A accelerators=(
  [v4]=tpu-v4-podslice [v5e]=tpu-v5-lite-podslice [v5p]=tpu-v5p-slice [v6e]=tpu-v6e-slice
)

# A word as YAML in double quotes.
yaml() {
  local word="${1//\\/\\\\}"
  printf '"%s"' "${word//\"/\\\"}"
}

arguments=""
for flag in "${flags[@]}"; do arguments+="                    - $(yaml "$flag")"$'\n'; done
manifest="$(< "$ROOT/launch/gke/jobset.yaml")"
manifest="${manifest//@NAME@/"$name"}"
manifest="${manifest//@QUEUE@/"$queue"}"
manifest="${manifest//@RESTARTS@/"$restarts"}"
manifest="${manifest//@HOSTS@/"$((total / chips))"}"
manifest="${manifest//@CHIPS@/"$chips"}"
manifest="${manifest//@DISTRIBUTED@/"$((total > chips ? 1 : 0))"}"
manifest="${manifest//@ACCELERATOR@/"${accelerators[${BASH_REMATCH[1]}]}"}"
manifest="${manifest//@TOPOLOGY@/"$(yaml "${topology#*:}")"}"
manifest="${manifest//@IMAGE@/"$(yaml "$image")"}"
manifest="${manifest//@CACHE@/"$(yaml "$workdir/xla_cache")"}"
manifest="${manifest//@ARGS@/"${arguments%$'\n'}"}"

if ((DRY_RUN)); then
  echo "# kubectl apply -f - <<EOF"
  echo "$manifest"
  exit 0
fi
command -v kubectl > /dev/null || die "no kubectl here, or not on the PATH."
kubectl apply -f - <<< "$manifest"
echo "logs: kubectl logs --prefix --follow --max-log-requests=$((total / chips)) -l jobset.sigs.k8s.io/jobset-name=$name"
