# Shared by the launchers, which source it; not run by itself.
# shellcheck shell=bash
set -euo pipefail

# The root of the repository, whatever folder a launcher is called from.
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
DRY_RUN=0

# A cron job or a container may have no HOME. Without it, the shell looks up the user's
# home directory for ~.
if [[ -z "${HOME:-}" ]]; then
  unset HOME
  HOME=~
  export HOME
fi

if [[ -z "${PYTHON:-}" ]]; then
  PYTHON=python3
  [[ ! -x "$ROOT/.venv/bin/python" ]] || PYTHON="$ROOT/.venv/bin/python"
fi

# Launchers stay in the caller's folder, so that the relative paths of --config,
# --workdir and data keep their meaning. PYTHONPATH finds the package and its configs.
# With -P, modules in the caller's folder are not imported in their place.
# shellcheck disable=SC2034  # used by the launchers
IMPORTS="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
# shellcheck disable=SC2034  # used by the launchers
TRAINING=("$PYTHON" -P -m facecycle_jax.main)

# Folder for compiled programs, so that a restart does not compile again. If it is
# empty, they are not kept.
# shellcheck disable=SC2034  # used by the launchers
CACHE="${JAX_COMPILATION_CACHE_DIR-${XDG_CACHE_HOME:-$HOME/.cache}/facecycle_jax/xla}"

# Prints a sentence about the launch itself to stderr; stdout is for the training.
say() {
  echo "${0##*/}: $*" >&2
}

# Ends the launcher because of a mistake in the command.
die() {
  say "$@"
  exit 2
}

# macOS has bash 3.2, to which an empty list is an unset variable.
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || die "bash 4.4 or newer is needed, this is $BASH_VERSION."

# Prints the comment at the head of the launcher and ends the launcher.
help() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit 0
}

# Prints words as one line that can be pasted into a shell.
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

# Replaces the launcher by its last command, so that SIGTERM reaches the training; with
# --dry-run only prints the command.
run_in_place() {
  if ((DRY_RUN)); then
    quoted "$@"
  else
    exec "$@"
  fi
}

# Prints the value of --name=value.
value() {
  echo "${1#*=}"
}

# Appends an argument that is not an option of the launcher to `flags`, which go to the
# training, and sets `workdir` to the value of --workdir. Ends the launcher if the
# training has no such flag, because on a cluster the mistake would only be found after
# a machine was paid for.
# shellcheck disable=SC2034  # used by the launchers
take_flag() {
  case "$1" in
    --workdir=*) workdir="$(value "$1")" ;;
    --config=* | --config.?* | --noconfig.?*) ;;
    # The remaining flags of facecycle_jax/main.py.
    --distributed | --nodistributed | --distributed=*) ;;
    --start_anew | --nostart_anew | --start_anew=*) ;;
    --peer_timeout=* | --start_timeout=* | --compilation_cache=*) ;;
    *) refuse_argument "$1" ;;
  esac
  flags+=("$1")
}

# Ends the launcher because of an argument that is neither an option of it nor a flag of
# the training. The options are read from the help.
refuse_argument() {
  local name="${1%%=*}" usage
  usage="$(help) [--peer_timeout=S] [--start_timeout=S] [--compilation_cache=DIR]"
  case "$usage" in
    *"[$name]"*) die "$name takes no value, got '$1'." ;;
    *"[$name="* | *" $name="*) die "$name needs a value: $name=VALUE." ;;
  esac
  die "unknown argument '$1': it is not an option of this launcher, which --help lists, and no" \
    "flag of the training: --config, --config.FIELD, --workdir, --distributed," \
    "--peer_timeout, --start_timeout, --start_anew or --compilation_cache."
}

# Prints the value of --NAME=VALUE among flags. Of several, the last one counts. Fails
# if there is none.
#
#   flag_value NAME FLAG...
flag_value() {
  local name="$1" flag last="" missing=1
  shift
  for flag in "$@"; do
    if [[ "$flag" == "--$name="* ]]; then
      last="$(value "$flag")"
      missing=0
    fi
  done
  echo "$last"
  return "$missing"
}

# Ends the launcher unless the training flags name a config and a workdir.
check_flags() {
  local config directory bucket='^gs://[^/]+(/.*)?$'
  config="$(flag_value config "$@")" || die "--config=FILE is missing, e.g. --config=configs/debug.py."
  [[ -n "$config" ]] || die "--config= is empty: name a file, e.g. --config=configs/debug.py."

  directory="$(flag_value workdir "$@")" || die "--workdir=DIR is missing."
  [[ -n "$directory" ]] || die "--workdir= is empty: name a directory."
  [[ "$directory" != gs://* || "$directory" =~ $bucket ]] ||
    die "--workdir must be gs://BUCKET/DIR for a bucket, got '$directory'."
}

# Sets `config_file` to the file of --config=FILE.py[:ARGUMENT], or to nothing if the
# value is the name of a config, e.g. motion_cycle. Ends the launcher if there is no
# such file.
find_config() {
  local config
  config="$(flag_value config "$@")" || true
  case "$config" in
    *.py) config_file="$config" ;;
    *.py:*) config_file="${config%%.py:*}.py" ;;
    *) config_file="" ;;
  esac
  if [[ -n "$config_file" && ! -f "$config_file" ]]; then
    die "there is no file '$config_file' in $PWD (--config)."
  fi
}

# Succeeds if a word is a whole number above 0.
is_number() {
  [[ "$1" =~ ^[1-9][0-9]*$ ]]
}

# Parses the value of --mount=gs://BUCKET[/PREFIX]:/DIR: sets `bucket`, `prefix` (may be
# empty) and `directory`.
# shellcheck disable=SC2034  # used by the launchers
parse_mount() {
  local form='^gs://([a-z0-9][a-z0-9._-]+)(/([^:,"\\]*))?:(/[^:,"\\]+)$'
  [[ "$1" =~ $form ]] || die "--mount must be gs://BUCKET[/PREFIX]:/DIR, got '$1'."

  bucket="${BASH_REMATCH[1]}"
  prefix="${BASH_REMATCH[3]%/}"
  directory="${BASH_REMATCH[4]%/}"
}

# Ends the launcher if a --mount is malformed, or two have the same directory.
check_mounts() {
  local mount seen=$'\n'
  for mount in "$@"; do
    parse_mount "$mount"
    [[ "$seen" != *$'\n'"$directory"$'\n'* ]] ||
      die "two --mount have the directory $directory: give each one of its own."
    seen+="$directory"$'\n'
  done
}
