"""Configs by name or path: finding them, setting their fields, reading them.

A command line of `python -m facecycle_jax.main` names a config and its changed fields.
"""

import contextlib
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.traverse_util
import ml_collections
from absl import flags
from ml_collections import config_flags

from facecycle_jax import configs
from facecycle_jax.errors import UserError

_FOLDER = pathlib.Path(configs.__file__).parent
# Modules that configs share, and that describe no run by themselves.
_SHARED = ("__init__", "base", "peer_base")

_CONFIG_FLAGS = ("--config", "-config")

# What a field needs, by the words in which Python refuses a value for it.
_NEEDED_TYPES = {
    "invalid literal for int()": "a whole number",
    "could not convert string to float": "a number",
    "('Non-boolean argument to boolean flag'": "true or false",
}


def config_names() -> list[str]:
    """Returns the names of the bundled configs, sorted."""
    stems = [path.stem for path in _FOLDER.glob("*.py")]
    return sorted(stem for stem in stems if stem not in _SHARED)


def find_config(name: str) -> str:
    """Finds a config by its name, or by its path, which wins where both exist.

    Args:
      name: 'motion_cycle' or 'my/config.py', perhaps followed by ':' and the config's
        argument.

    Returns:
      The path, with the argument.

    Raises:
      UserError: If there is neither.
    """
    path, colon, argument = name.partition(":")

    if pathlib.Path(path).is_file():
        return name
    if path in config_names():
        return f"{_FOLDER / path}.py{colon}{argument}"

    known = ", ".join(config_names())
    raise UserError(f"there is no config {path!r}: name a file, or one of {known}.")


def launcher_arguments(
    config: str,
    fields: Sequence[str],
    *,
    workdir: str | None = None,
    start_anew: bool = False,
    distributed: bool = False,
) -> list[str]:
    """Translates the command into that of `python -m facecycle_jax.main`.

    Args:
      config: name of a config or path of a config file, perhaps followed by ':' and its
        argument.
      fields: 'field=value' each.
      workdir: directory of the run; None leaves it out, as `resolve` needs it.
      start_anew: the flag of that name.
      distributed: the flag of that name.

    Returns:
      The command line, with the program's name first.

    Raises:
      UserError: If there is no such config, or a field has no value.
    """
    command_line = ["facecycle train", f"--config={find_config(config)}"]
    if workdir is not None:
        command_line.append(f"--workdir={workdir}")

    for field in fields:
        name, equals, value = field.partition("=")
        if not equals or not name:
            raise UserError(
                f"--set {field}: write it as FIELD=VALUE, such as "
                "--set data.path=FRAMES."
            )
        command_line.append(f"--config.{name}={value}")

    if start_anew:
        command_line.append("--start_anew")
    if distributed:
        command_line.append("--distributed")
    return command_line


def for_all_stages(fields: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """Sets fields of no stage in every stage that has them.

    Args:
      fields: 'field=value' each, such as 'data.path=FRAMES'.
      config: the config as nested dicts; `stages` names its stages, if it has any.

    Returns:
      'field=value' each, such as 'motion.data.path=FRAMES' and
      'identity.data.path=FRAMES'. A field that the config itself has, or that nothing
      has, stays as it is.
    """
    result = []
    for field in fields:
        name = field.partition("=")[0]
        stages = [
            stage
            for stage in config.get("stages", ())
            if name in flax.traverse_util.flatten_dict(config[stage], sep=".")
        ]

        if name.partition(".")[0] in config or not stages:
            result.append(field)
        else:
            result += [f"{stage}.{field}" for stage in stages]
    return result


def resolve(argv: Sequence[str]) -> dict[str, Any]:
    """Reads a config and its changed fields, without the flags of this process.

    Args:
      argv: a command line with the program's name, --config and --config.FIELD=VALUE.

    Returns:
      The config as nested dicts.

    Raises:
      UserError: If the config cannot be read, or a field is wrong.
    """
    argv = _with_config_paths(argv)
    own = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", None, "A config.", flag_values=own, lock_config=True
    )

    try:
        with as_command_line(argv):
            own(argv)
            resolved: dict[str, Any] = checked(holder.value, argv).to_dict()
    except Exception as error:
        # Only the command line and the config are read here.
        raise command_mistake(error, argv) from None
    return resolved


@contextlib.contextmanager
def as_command_line(argv: Sequence[str]) -> Iterator[None]:
    """Puts a command line in the place of the process's own.

    The library of configs reads changed fields from sys.argv, whatever is parsed.

    Args:
      argv: a command line with the program's name.
    """
    own = sys.argv
    sys.argv = list(argv)
    try:
        yield
    finally:
        sys.argv = own


def parse_flags(
    argv: Sequence[str],
    config: flags.FlagHolder[Any],
    *,
    example: str,
    missing: Callable[[], str],
    fail: Callable[[Exception], int],
) -> list[str]:
    """Reads the flags and the config of a program, or ends it with a sentence.

    Args:
      argv: the command line, with the program's name. --config takes the path of a
        file or, as `find_config`, the name of a bundled config.
      config: the program's config flag.
      example: flags that would do, for the sentence on a missing one.
      missing: called once the flags are read; returns the name of another flag that is
        needed and missing, or ''.
      fail: reports a mistake in the command or the config and returns the exit status.

    Returns:
      The arguments that are not flags, with the program's name.

    Raises:
      SystemExit: With the status of `fail` for a mistake, with status 0 after help was
        printed.
    """
    try:
        argv = _with_config_paths(argv)
        # Reading the flags loads the config, so an empty name is refused before.
        absent = "config" if "--config=" in argv else ""
        if not absent:
            rest = list(flags.FLAGS(argv))
            absent = missing() if flags.FLAGS["config"].present else "config"
        if absent:
            raise UserError(f"--{absent} is missing, as in {example}.")

        checked(config.value, argv)
    except SystemExit:
        # Help was printed.
        raise SystemExit(0) from None
    except Exception as error:
        # Only the command line and the config are read here, so the mistake is in one
        # of them.
        raise SystemExit(fail(command_mistake(error, argv))) from None

    return rest


def _with_config_paths(argv: Sequence[str]) -> list[str]:
    """Replaces the name of a config in a command line by the path of its file."""
    argv = list(argv)
    for index, flag, value in _config_flags(argv):
        # What looks like a path is left to the library, which says what is wrong.
        path = value.partition(":")[0]
        if path and not path.endswith(".py") and "/" not in path:
            argv[index] = f"{flag}{find_config(value)}"
    return argv


def checked(config: Any, argv: Sequence[str]) -> ml_collections.ConfigDict:
    """Returns the value of a config flag, if it is a config.

    Args:
      config: what the file's `get_config` returned.
      argv: the command line, for the message.

    Returns:
      The config.

    Raises:
      OSError: If the file cannot be read.
      UserError: If the file returned something else.
    """
    if isinstance(config, ml_collections.ConfigDict):
        return config

    # A config that cannot be read is an object that raises OSError when it is used.
    getattr(config, "lock", None)
    raise UserError(f"{_config_name(argv)}: get_config() must return a ConfigDict.")


def command_mistake(error: Exception, argv: Sequence[str]) -> UserError:
    """Describes in a sentence what is wrong with a command line or a config.

    Args:
      error: what reading them raised.
      argv: the command line, with the program's name.

    Returns:
      The mistake; a UserError is returned as it is.
    """
    if isinstance(error, UserError):
        return error

    config = _config_name(argv)
    lines = str(error).strip().splitlines() or [""]

    # An error in the code of the config. A config's name may end with ':arguments'.
    path = config.partition(":")[0]
    inside = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == path
    ]
    if inside:
        return UserError(
            f"{path}, line {inside[-1].lineno}: {type(error).__name__}: {lines[0]}"
        )

    # A config that cannot be read, or that is not Python.
    if isinstance(error, OSError):
        return UserError(f"--config={config} cannot be read: {lines[-1].strip()}")
    if isinstance(error, SyntaxError):
        return UserError(f"--config={config}: {error}")

    # A field that the config does not have.
    if isinstance(error, AttributeError | KeyError):
        fields = _fields_in(argv, lines[0])
        if not fields:
            return UserError(f"{config}: {lines[0]}")
        hint = " ".join(line.strip() for line in lines[1:])
        sentence = f"{config} has no field {' or '.join(fields)}. {hint}"
        return UserError(sentence.strip())

    # A value of the wrong type, which the flags report in Python's words.
    for words, needed in _NEEDED_TYPES.items():
        flag, found, _ = lines[0].partition(words)
        if found and isinstance(error, flags.IllegalFlagValueError):
            field = flag.removeprefix("flag --config.").removesuffix(": ")
            return UserError(f"{field}: this field needs {needed}.")

    # The flags put text of their own before an error in the config.
    if len(lines) == 1:
        return UserError(lines[0])
    return UserError(f"{lines[0]} {lines[-1]}")


def _fields_in(argv: Sequence[str], message: str) -> list[str]:
    """Finds the fields in a command line whose last part an error message names."""
    fields = []
    for argument in argv:
        match = re.match(r"--?(?:no)?(config\.[\w.]+)", argument)
        if not match:
            continue
        # A stage that does not exist is in the middle of a field's name.
        *stages, field = match[1].split(".")[1:]
        if field in message or any(f"'{stage}'" in message for stage in stages):
            fields.append(match[1])
    return fields


def _config_name(argv: Sequence[str]) -> str:
    """Finds the value of --config in a command line."""
    return next((value for _, _, value in _config_flags(argv)), "")


def _config_flags(argv: Sequence[str]) -> list[tuple[int, str, str]]:
    """Finds --config in a command line.

    Returns of each the index of the argument with its value, what stands before the
    value there ('--config=' or nothing), and the value.
    """
    found = []
    for index, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag not in _CONFIG_FLAGS:
            continue

        # The value follows an equals sign, or is the next argument.
        if equals:
            found.append((index, flag + equals, value))
        else:
            found.append((index + 1, "", "".join(argv[index + 1 : index + 2])))
    return found
