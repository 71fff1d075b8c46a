"""Commands and Python blocks of Markdown pages, checked against parsers and configs."""

import argparse
import ast
import functools
import importlib
import pathlib
import re
import shlex
from typing import NamedTuple

from absl import flags

from benchmarks import __main__ as benchmark
from facecycle_jax import cli, config_files
from facecycle_jax.training import flatten

ROOT = pathlib.Path(__file__).parents[2]
PROGRAMS = (
    "facecycle",
    "python",
    "python3",
    "make",
    "pip",
    "uv",
    "git",
    "cd",
    ".",
    "export",
)


class Block(NamedTuple):
    """A fenced or indented block: its language ('' if none or indented) and text."""

    language: str
    text: str


def pages():
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text):
    """Yields the blocks of a page; those inside list items lose their indentation."""
    lines = text.splitlines()
    i = 0
    while i < len(lines):
        fence = re.match(r"^(\s*)```(\w*)", lines[i])
        if fence:
            end = next(j for j in range(i + 1, len(lines)) if lines[j].strip() == "```")
            inside = [line[len(fence[1]) :] for line in lines[i + 1 : end]]
            yield Block(fence[2], "\n".join(inside) + "\n")
            i = end + 1
        elif lines[i].startswith("    ") and (i == 0 or not lines[i - 1].strip()):
            end = i
            while end < len(lines) and (
                lines[end].startswith("    ") or not lines[end].strip()
            ):
                end += 1
            yield Block(
                "", "\n".join(line[4:] for line in lines[i:end]).rstrip() + "\n"
            )
            i = end
        else:
            i += 1


def commands(text):
    """Lists the commands of a page.

    They are the lines of shell blocks that start with a known program. Continued lines
    are joined.
    """
    found = []
    for block in blocks(text):
        if block.language not in ("", "sh", "bash", "console"):
            continue
        joined = re.sub(r"\\\n\s*", " ", block.text)
        for line in joined.splitlines():
            words = re.sub(r"^\$ ", "", line).split()
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words and words[0] in PROGRAMS:
                found.append(re.sub(r"\s+#.*$", "", " ".join(words)))
    return found


@functools.cache
def config_fields():
    """Every field of every config in configs/, with an example of its value."""
    fields = {}
    for path in sorted((ROOT / "configs").glob("*.py")):
        if path.stem in ("__init__", "base"):
            continue
        fields |= page_fields(path.stem)
    return fields


@functools.cache
def page_fields(name):
    config = importlib.import_module(f"configs.{name}").get_config().to_dict()
    return flatten(config)


@functools.cache
def subcommands():
    """Parser of every subcommand of `facecycle`."""
    [action] = [
        a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)
    ]
    return dict(action.choices)


@functools.cache
def known_options():
    """Every option of every program of the package."""
    options = {
        option
        for parser in subcommands().values()
        for option in parser._option_string_actions
    }
    # Other programs are read, not imported: their parsers, and what shell
    # scripts look for.
    folders = ("facecycle_jax", "benchmarks", "launch")
    for path in [
        file for folder in folders for file in sorted((ROOT / folder).rglob("*.*"))
    ]:
        if path.suffix == ".py":
            text = path.read_text()
            options |= set(re.findall(r"""add_argument\(\s*["'](--[\w-]+)""", text))
            options |= {
                f"--{flag}"
                for flag in re.findall(r"""DEFINE_\w+\(\s*["'](\w+)["']""", text)
            }
        elif path.suffix == ".sh":
            options |= set(re.findall(r"(--[a-z][\w-]+)", path.read_text()))
    return options | {f"--{flag}" for flag in main_flags()} | {"--help"}


@functools.cache
def main_flags():
    """Names of the flags of `facecycle_jax.main`."""
    module = importlib.import_module("facecycle_jax.main").__name__
    return {flag.name for flag in flags.FLAGS.get_flags_for_module(module)}


def check(command):
    """Returns what is wrong with a command, or '' if all that it names exists."""
    words = shlex.split(command)
    if words[0] == "facecycle":
        wrong = _parses(cli._parser(), words[1:])
        return wrong or (_training_by_name(words[1:]) if words[1] == "train" else "")
    if words[:3] == ["python", "-m", "benchmarks"]:
        return _parses(benchmark._parser(), words[3:])
    if words[:3] == ["python", "-m", "facecycle_jax.main"]:
        return _training(words[3:])
    if words[0] == "make":
        targets = re.findall(
            r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE
        )
        unknown = [
            word for word in words[1:] if word not in targets and "=" not in word
        ]
        return f"no target {unknown[0]}" if unknown else ""
    if words[0] in ("pip", "uv"):
        return extras(command)
    return ""


def extras(text):
    """Returns what is wrong with the extras named in a text."""
    known = re.findall(r"^([\w-]+) =$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    for names in re.findall(r"(?:facecycle_jax|\.)\[([\w,-]+)\]", text):
        for name in names.split(","):
            if name not in known:
                return f"no extra {name}"
    return ""


def _parses(parser, words):
    try:
        parser.parse_args(words)
    except SystemExit as end:
        return f"the parser refuses it, exit status {end.code}" if end.code else ""
    return ""


def _training_by_name(words):
    """Checks the fields of a command of `facecycle train`."""
    parsed = cli._parser().parse_args(words)
    command_line = config_files.launcher_arguments(
        parsed.config, parsed.set, workdir="unused"
    )
    return _training(command_line[1:])


def _training(words):
    """Checks a command of `facecycle_jax.main` against the page it names."""
    # An ellipsis stands for more options, or for any page.
    matches = {
        word: re.match(r"--([\w.]+)(?:=(.*))?$", word)
        for word in words
        if word != "..."
    }
    wrong = [word for word, match in matches.items() if not match]
    if wrong:
        return f"{wrong[0]} is not an option"
    given = dict(match.groups() for match in matches.values())
    # A page may take an argument after a colon.
    page = pathlib.Path((given.get("config") or "").partition(":")[0])
    if str(page) != "..." and not (ROOT / page).is_file():
        return f"no page {page}"
    fields = config_fields() if str(page) == "..." else page_fields(page.stem)
    for name, value in given.items():
        if name in main_flags():
            continue
        if not name.startswith("config."):
            return f"no option --{name}"
        field = name.removeprefix("config.")
        if field not in fields:
            return f"{page} has no field {field}"
        example = fields[field]
        if not isinstance(example, str):
            try:
                found = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                return f"{field} takes a {type(example).__name__}, got {value}"
            if not isinstance(found, int | float | list | tuple):
                return f"{field} takes a {type(example).__name__}, got {value}"
    return ""
