#!/usr/bin/env bash
# Trains on this machine, with whatever devices JAX finds.
#
#   launch/local.sh [--dry-run] --config=FILE --workdir=DIR [--config.FIELD=VALUE ...]
#
# It reads these environment variables:
#
# PYTHON                     the interpreter; else that of .venv, else python3
# JAX_COMPILATION_CACHE_DIR  folder for compiled programs; else
#                            ~/.cache/facecycle_jax/xla; if it is empty, none are kept
# FACECYCLE_ALLOCATOR        library that allocates memory; else tcmalloc, if it is
#                            installed, which makes steps on a CPU faster (see
#                            docs/performance.md); if it is empty, the C library
#
# LD_PRELOAD is left as it is if it is set. The exit status is that of the training.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

TCMALLOC=libtcmalloc_minimal.so.4

# Succeeds if programs can start with this library preloaded. If not, the loader prints
# the reason.
can_preload() {
  [[ "$(uname)" == Linux ]] && [[ -z "$(LD_PRELOAD="$1" env true 2>&1)" ]]
}

flags=()
for argument in "$@"; do
  case "$argument" in
    -h | --help) help ;;
    --dry-run) DRY_RUN=1 ;;
    *) take_flag "$argument" ;;
  esac
done
check_flags "${flags[@]}"
find_config "${flags[@]}"

settings=(PYTHONPATH="$IMPORTS" JAX_COMPILATION_CACHE_DIR="$CACHE")
allocator="${FACECYCLE_ALLOCATOR-$TCMALLOC}"
if [[ -n "$allocator" && -z "${LD_PRELOAD:-}" ]]; then
  if can_preload "$allocator"; then
    settings+=(LD_PRELOAD="$allocator")
  elif [[ -n "${FACECYCLE_ALLOCATOR:-}" ]]; then
    die "FACECYCLE_ALLOCATOR=$allocator cannot be loaded; give a library's name or path, or leave it empty."
  fi
fi

run_in_place env "${settings[@]}" "${TRAINING[@]}" "${flags[@]}"
