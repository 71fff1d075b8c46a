#!/bin/sh
# Measures the first GPU of this machine in under 8 minutes, for docs/performance.md:
# train steps of both stages in bfloat16, TF32 and float32 with 16 to 256 pairs,
# sampling, inference and start-up. It compares this package with plain PyTorch (eager,
# channels-last, torch.compile).
#
# Usage:  sh launch/measure_gpu.sh [FILE.json] [more options of python -m benchmarks]
#
# It needs `pip install 'facecycle_jax[cuda12,torch]'`, but no tensorflow. The figures
# are written to FILE.json (gpu.json), each as soon as it is measured.
#
# --budget SECONDS (440) is the time for measurements. One that has begun may take up to
# 38 s longer, then everything is stopped. What there was no time for has a row that
# says so.

set -eu

# Ends the script because of a mistake in the command.
die() {
  echo "measure_gpu.sh: $*" >&2
  exit 2
}

case "${1-}" in
  -h | --help)
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
  -*) die "the first argument is the file for the figures, got '$1'; write gpu.json $1." ;;
esac
out=${1:-gpu.json}
[ $# -eq 0 ] || shift

# The last --budget counts, as in the benchmark.
budget=440
previous=""
for argument in "$@"; do
  case "$argument" in
    --budget=*) budget=${argument#--budget=} ;;
    *) [ "$previous" != --budget ] || budget=$argument ;;
  esac
  previous=$argument
done
case "${budget%%.*}" in
  "" | *[!0-9]*) die "--budget must be a number of seconds, got '$budget'." ;;
esac

# Like the launchers, this stays in the caller's folder, so that relative paths keep
# their meaning. PYTHONPATH finds the benchmark in the root of the repository. With -P,
# modules in the caller's folder are not imported in its place.
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

# By default JAX allocates most of a GPU's memory, but PyTorch needs some of it.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
export TF_CPP_MIN_LOG_LEVEL=3
exec timeout $((${budget%%.*} + 38)) "${PYTHON:-python}" -P -m benchmarks --suite gpu --device gpu --batch 16 \
    --repeats 10 --torch eager,channels_last,compile --json "$out" "$@"
