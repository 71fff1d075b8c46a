# Shared by the launchers, which source it; not run by itself.
# shellcheck shell=bash
set -euo pipefail

# Where the repository is, from wherever a launcher is called.
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
DRY_RUN=0
# What a process ends with after SIGTERM, its state saved: the same command continues.
# shellcheck disable=SC2034  # used by the launchers
PREEMPTED_EXIT=75

if [[ -z "${PYTHON:-}" ]]; then
  PYTHON=python3
  [[ ! -x "$ROOT/.venv/bin/python" ]] || PYTHON="$ROOT/.venv/bin/python"
fi
# Compiled programs are kept here, so that a restart does not compile again; empty: they are not kept.
# shellcheck disable=SC2034  # used by the launchers
CACHE="${JAX_COMPILATION_CACHE_DIR-${XDG_CACHE_HOME:-$HOME/.cache}/facecycle_jax/xla}"

die() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# Prints the comment at the head of the launcher.
help() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit 0
}

# One line that can be pasted into a shell.
quoted() {
  local word line=""
  for word in "$@"; do line+="$(printf '%q' "$word") "; done
  echo "${line% }"
}

# Runs a command; with --dry-run only prints it.
run() {
  if ((DRY_RUN)); then
    quoted "$@"
  else
    "$@"
  fi
}

# The value of --name=value.
value() {
  echo "${1#*=}"
}

# Dies unless the training flags name a configuration and a workdir.
check_flags() {
  [[ " $* " == *" --config="* ]] || die "--config=FILE is missing, e.g. --config=configs/debug.py."
  [[ " $* " == *" --workdir="* ]] || die "--workdir=DIR is missing."
}

is_number() {
  [[ "$1" =~ ^[1-9][0-9]*$ ]]
}
