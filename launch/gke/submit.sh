#!/usr/bin/env bash
# Trains on the TPUs of a GKE cluster. Makes a JobSet, which Kueue queues and which is
# started again after preemption.
#
#   launch/gke/submit.sh --image=IMAGE [--topology=v5e:4x4] [--slices=1]
#       [--machine=TYPE] [--queue=multislice-queue] [--name=facecycle]
#       [--service-account=default]
#       [--mount=gs://BUCKET[/PREFIX]:/DIR ...] [--restarts=100] [--dry-run]
#       --config=FILE --workdir=gs://BUCKET/DIR [--config.FIELD=VALUE ...]
#
# --image            container image with the package, see launch/gke/Dockerfile
# --topology         the slice: v4, v5e, v5p or v6e and the chips along each side, as in
#                    launch/compile_check
# --slices           number of slices of this topology, each a node pool of its own,
#                    joined by the data-centre network
# --machine          machine type of the nodes. Only a 2x4 slice leaves a choice: one
#                    host of 8 chips (ct5lp-hightpu-8t, ct6e-standard-8t) or two hosts of
#                    4 (ct5lp-hightpu-4t, ct6e-standard-4t)
# --queue            name of Kueue's LocalQueue
# --name             name of the JobSet; there must be none of this name, running or
#                    ended
# --service-account  Kubernetes service account that may use the buckets
# --mount            makes a bucket readable at /DIR in all pods, for data and weights;
#                    may be repeated
# --restarts         how often to start again after a lost host, preemption or death by
#                    a signal other than SIGINT; after any other exit code, such as 2 for
#                    a mistake, the JobSet ends
#
# --config is a file of the image, e.g. configs/motion_cycle.py, or the name of a config.
# All other paths are those of the image too. This needs kubectl here and, in the
# cluster, JobSet, Kueue and, for --mount, the Cloud Storage FUSE CSI driver. Compiled
# programs are kept in WORKDIR/xla_cache. With --dry-run the manifest is printed.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
# shellcheck source=launch/restarts.sh
source "$ROOT/launch/restarts.sh"

topology=v5e:4x4
slices=1
queue=multislice-queue
name=facecycle
restarts=100
image=""
machine=""
account=default
mounts=()
workdir=""
flags=()
for argument in "$@"; do
  case "$argument" in
    -h | --help) help ;;
    --dry-run) DRY_RUN=1 ;;
    --topology=*) topology="$(value "$argument")" ;;
    --slices=*) slices="$(value "$argument")" ;;
    --queue=*) queue="$(value "$argument")" ;;
    --name=*) name="$(value "$argument")" ;;
    --restarts=*) restarts="$(value "$argument")" ;;
    --image=*) image="$(value "$argument")" ;;
    --machine=*) machine="$(value "$argument")" ;;
    --service-account=*) account="$(value "$argument")" ;;
    --mount=*) mounts+=("$(value "$argument")") ;;
    *) take_flag "$argument" ;;
  esac
done
check_flags "${flags[@]}"

[[ -n "$image" ]] || die "--image=IMAGE is missing; launch/gke/Dockerfile makes one."
[[ "$workdir" == gs://* ]] || die "--workdir must be gs://BUCKET/DIR, which all pods see, got '$workdir'."
is_number "$restarts" || die "--restarts must be a whole number above 0, got '$restarts'."
is_number "$slices" || die "--slices must be a whole number above 0, got '$slices'."
label='^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$'
[[ "$name" =~ $label && "$name" == [a-z]* ]] ||
  die "--name must be small letters, digits and dashes, at most 40, and begin with a letter, got '$name'."
[[ "$queue" =~ $label ]] || die "--queue must be small letters, digits and dashes, at most 40, got '$queue'."
[[ "$account" =~ $label ]] || die "--service-account must be small letters, digits and dashes, got '$account'."

# The number of chips of the slice, and the family of its machines.
[[ "$topology" =~ ^(v4|v5p):([1-9][0-9]*)x([1-9][0-9]*)x([1-9][0-9]*)$ ]] ||
  [[ "$topology" =~ ^(v5e|v6e):(1)x(1)$ ]] ||
  [[ "$topology" =~ ^(v5e|v6e):(2|4)x(4)$ ]] ||
  [[ "$topology" =~ ^(v5e|v6e):(2)x(2)$ ]] ||
  [[ "$topology" =~ ^(v5e|v6e):(4|8)x(8)$ ]] ||
  [[ "$topology" =~ ^(v5e|v6e):(8|16)x(16)$ ]] ||
  die "--topology must be e.g. v4:2x2x2 or v5p:2x2x2; for v5e and v6e 1x1, 2x2, 2x4," \
    "4x4, 4x8, 8x8, 8x16 or 16x16; got '$topology'."
generation="${BASH_REMATCH[1]}"
total=$((BASH_REMATCH[2] * BASH_REMATCH[3] * ${BASH_REMATCH[4]:-1}))
case "$generation" in
  v4) accelerator=tpu-v4-podslice family=ct4p-hightpu ;;
  v5e) accelerator=tpu-v5-lite-podslice family=ct5lp-hightpu ;;
  v5p) accelerator=tpu-v5p-slice family=ct5p-hightpu ;;
  v6e) accelerator=tpu-v6e-slice family=ct6e-standard ;;
esac

# A host has four chips, with two exceptions. 1x1 is one chip of a host. For 2x4 there
# are hosts of 8 and of 4 chips with the same topology label, so a label with the
# machine type selects the nodes.
machine_label=""
case "$generation:$total" in
  v5e:1 | v6e:1) fitting=("$family-1t") ;;
  v5e:8 | v6e:8)
    fitting=("$family-8t" "$family-4t")
    machine_label="node.kubernetes.io/instance-type"
    ;;
  *) fitting=("$family-4t") ;;
esac
machine="${machine:-${fitting[0]}}"
[[ " ${fitting[*]} " == *" $machine "* ]] ||
  die "--machine for $topology must be one of: ${fitting[*]}; got '$machine'."
chips="${machine##*-}"
chips="${chips%t}"
((total % chips == 0)) || die "--topology=$topology has $total chips, which are not whole hosts of $chips."
hosts=$((total / chips))

# Prints a word as YAML in double quotes.
yaml() {
  local word="${1//\\/\\\\}"
  printf '"%s"' "${word//\"/\\\"}"
}

# Replaces @NAME@ in the manifest by a text.
#
#   fill NAME TEXT
fill() {
  manifest="${manifest//@$1@/"$2"}"
}

arguments=""
for flag in "${flags[@]}"; do arguments+="                    - $(yaml "$flag")"$'\n'; done

# Each bucket is a volume of the pod, mounted in the container of the training. Without
# buckets, the lists in the manifest are empty.
has_mounts=false
volumes=""
volume_mounts=""
check_mounts "${mounts[@]}"
for i in "${!mounts[@]}"; do
  parse_mount "${mounts[i]}"
  has_mounts=true
  volume_mounts+="
                    - name: bucket-$i
                      mountPath: $(yaml "$directory")
                      readOnly: true"
  volumes+="
                - name: bucket-$i
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    readOnly: true
                    volumeAttributes:
                      bucketName: $(yaml "$bucket")
                      mountOptions: $(yaml "implicit-dirs${prefix:+,only-dir=$prefix}")"
done

manifest="$(< "$ROOT/launch/gke/jobset.yaml")"
fill NAME "$(yaml "$name")"
fill QUEUE "$(yaml "$queue")"
fill RESTARTS "$restarts"
fill RESTART_STATUSES "$(restart_statuses)"
fill SLICES "$slices"
fill HOSTS "$hosts"
fill CHIPS "$chips"
fill DISTRIBUTED "$((slices * hosts > 1 ? 1 : 0))"
fill ACCELERATOR "$accelerator"
fill TOPOLOGY "$(yaml "${topology#*:}")"
fill MACHINE_LABEL "${machine_label:+$'\n'                $machine_label: $machine}"
fill IMAGE "$(yaml "$image")"
fill SERVICE_ACCOUNT "$(yaml "$account")"
fill HAS_MOUNTS "$has_mounts"
fill VOLUME_MOUNTS "${volume_mounts:- []}"
fill VOLUMES "${volumes:- []}"
fill CACHE "$(yaml "$workdir/xla_cache")"
fill ARGS "${arguments%$'\n'}"

if ((DRY_RUN)); then
  echo "# kubectl create -f - <<EOF"
  echo "$manifest"
  exit 0
fi
command -v kubectl > /dev/null || die "no kubectl here, or not on the PATH."

# Not `kubectl apply`, which would report success and leave a JobSet that has ended as
# it is.
if ! answer="$(kubectl create -f - <<< "$manifest" 2>&1)"; then
  [[ "$answer" != *AlreadyExists* ]] ||
    die "there is a JobSet '$name' already, which may have ended: choose another --name, or" \
      "delete it first: kubectl delete jobset $name"
  echo "$answer" >&2
  exit 1
fi
echo "$answer"
echo "logs: kubectl logs --prefix --follow --max-log-requests=$((slices * hosts)) -l jobset.sigs.k8s.io/jobset-name=$name"
