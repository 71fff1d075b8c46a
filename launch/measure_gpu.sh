#!/bin/sh
# Measures everything that docs/performance.md says of a GPU, in under 8 minutes, on the first GPU of this machine:
# train steps of both stages in bfloat16, TF32 and float32 with 16 to 256 pairs, sampling, inference and start-up,
# this program beside plain PyTorch (eager, channels-last, torch.compile).
#
# Needs:  pip install 'facecycle_jax[cuda12,torch]'   (no tensorflow)
# Usage:  sh launch/measure_gpu.sh [FILE.json] [more options of python -m benchmarks]
# What there was no time for has rows that say so. Each figure is in the file as soon as it is measured.
set -eu
out=${1:-gpu.json}
[ $# -gt 0 ] && shift
# PyTorch needs room beside JAX.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
export TF_CPP_MIN_LOG_LEVEL=3
exec timeout 478 "${PYTHON:-python}" -m benchmarks --suite gpu --device gpu --batch 16 --repeats 10 \
    --torch eager,channels_last,compile --json "$out" "$@"
