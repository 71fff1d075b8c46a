#!/usr/bin/env bash
# Trains on this machine, with whatever devices JAX finds.
#
#   launch/local.sh [--dry-run] --config=FILE --workdir=DIR [--config.FIELD=VALUE ...]
#
# PYTHON names the interpreter (else .venv's, else python3), JAX_COMPILATION_CACHE_DIR where compiled programs
# are kept (else ~/.cache/facecycle_jax/xla; empty: nowhere). The exit status is that of the training.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

flags=()
for argument in "$@"; do
  case "$argument" in
    -h | --help) help ;;
    --dry-run) DRY_RUN=1 ;;
    *) flags+=("$argument") ;;
  esac
done
check_flags "${flags[@]}"
cd "$ROOT"
run env JAX_COMPILATION_CACHE_DIR="$CACHE" "$PYTHON" -m facecycle_jax.main "${flags[@]}"
