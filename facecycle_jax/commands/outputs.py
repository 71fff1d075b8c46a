"""Outputs of commands: their names, checks before any work, and writing."""

import errno
import os
from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath

from facecycle_jax.commands.inputs import Problems
from facecycle_jax.data.images.media_files import (
    is_image_name,
    is_remote,
    is_video_name,
)
from facecycle_jax.errors import UserError
from facecycle_jax.files import check_new, write_if_name_fits
from facecycle_jax.paths import given_path
from facecycle_jax.viz.images import encode_png

# Largest number of folders that precede the name of an output.
_DEPTH = 8


def save_drawn(
    file: epath.Path,
    panel: np.ndarray,
    problems: Problems,
    *,
    icc_profile: bytes | None = None,
) -> bool:
    """Writes an image as PNG.

    Args:
      file: where to.
      panel: uint8 [H, W, 3], or [H, W, 4] with transparency.
      problems: gets a name that is too long for the file system.
      icc_profile: colour profile of the image.

    Returns:
      Whether the image was written.
    """
    if write_if_name_fits(file, encode_png(panel, icc_profile=icc_profile)):
        return True

    problems.lines.append(
        f"{file}: the name of this output is too long for the file system."
    )
    return False


def check_folder(folder: str | os.PathLike[str], *, name: str = "--out") -> epath.Path:
    """Checks, before any work, that a folder for outputs is there or can be made.

    Args:
      folder: its path, as the user has given it.
      name: the option that names it, for messages.

    Returns:
      The path.

    Raises:
      UserError: If the path is empty or an address, is a file, lies below one, or may
        not be written.
    """
    path = given_path(folder, name=name)
    _check_can_be_made(path, name=name, given=folder)
    return path


def check_folder_name(out: str) -> epath.Path:
    """Checks --out as `check_folder` does, and that it does not look like a file.

    Args:
      out: value of --out, where a folder of images is made.

    Returns:
      The path.

    Raises:
      UserError: See `check_folder`, or it ends as an image or a video does and is no
        folder already.
    """
    path = given_path(out, name="--out")
    is_file_name = is_image_name(path.name) or is_video_name(path.name)
    if is_file_name and not path.exists():
        raise UserError(
            f"--out {out} ends in {path.suffix}, but a folder of images is made: name "
            f"a folder, such as {path.with_suffix('')}."
        )
    return check_folder(out)


def check_free(
    paths: Sequence[epath.Path], *, overwrite: bool, sources: Iterable[epath.Path] = ()
) -> None:
    """Checks, before any work, that output files may be written.

    Args:
      paths: the outputs.
      overwrite: whether files that exist may be replaced.
      sources: the inputs, which are never replaced, whatever `overwrite` says.

    Raises:
      UserError: If an output is an input or a folder, would lie below a file, or may
        not be written.
      FileExistsError: If an output exists and `overwrite` is not set.
    """
    for folder in {path.parent for path in paths}:
        _check_can_be_made(folder, name="--out", given=folder)

    read = {os.path.realpath(source) for source in sources}
    for path in paths:
        if os.path.realpath(path) in read:
            raise UserError(f"{path} would replace an input; choose another --out.")

    taken = [path for path in paths if _exists(path)]
    for path in taken:
        if path.is_dir():
            raise UserError(
                f"{path} is a folder, and a file is written: choose another --out."
            )

    if taken and not overwrite:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise FileExistsError(
            f"{taken[0]} exists already{more}; use --overwrite or another --out."
        )


def check_new_output(out: str | os.PathLike[str], *, name: str = "--out") -> epath.Path:
    """Checks, before any work, that an output that must not exist can be made.

    Args:
      out: path of a file or folder, as the user has given it.
      name: the option that names it, for messages.

    Returns:
      The path.

    Raises:
      UserError: If the path is empty or an address, lies below a file, or may not be
        written.
      FileExistsError: If it exists.
    """
    path = given_path(out, name=name)
    check_new(path)
    _check_can_be_made(path.parent, name=name, given=out)
    return path


def _check_can_be_made(
    folder: epath.Path, *, name: str, given: str | os.PathLike[str]
) -> None:
    """Checks that a folder may be written, or can be made.

    Args:
      folder: the folder.
      name: the option that leads to it, for messages.
      given: value of the option.

    Raises:
      UserError: If the folder is a file, lies below one, or may not be written.
    """
    existing = _first_existing(folder)
    if existing is not None and not existing.is_dir():
        raise UserError(
            f"{name} {given} cannot be made, because {existing} is a file: choose "
            f"another {name}."
        )

    # A folder in a bucket, or a bucket that cannot be listed, is tried by writing.
    if existing is None or is_remote(existing):
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"{name} {given} may not be written: choose another folder or change its "
            "permissions."
        )


def _first_existing(path: epath.Path) -> epath.Path | None:
    """Returns the path itself, or the nearest folder above it that exists.

    A bucket that cannot be listed has none. Writing then reports the reason.
    """
    for existing in (path, *path.parents):
        # The last folders above a path in a bucket are local.
        if is_remote(path) and not is_remote(existing):
            return None
        if _exists(existing):
            return existing
    return None


def _exists(path: epath.Path) -> bool:
    """Says whether a file exists; one whose name is too long does not."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def output_names(paths: Sequence[epath.Path]) -> list[str]:
    """Names outputs after their inputs.

    Equal names are preceded by their folders, or numbered.

    Args:
      paths: the inputs.

    Returns:
      As many different names, without suffix.
    """
    best: list[str] = []

    # The fewest folders that distinguish most names.
    for depth in range(1, _DEPTH + 1):
        names = []
        for path in paths:
            folders = [part.strip("/") for part in path.parts[-depth:-1]]
            names.append("_".join([*filter(None, folders), path.stem]))
        if len(set(names)) > len(set(best)):
            best = names

    return unique(best)


def unique(names: Sequence[str]) -> list[str]:
    """Numbers repeated names.

    The second 'ann' becomes 'ann_2', unless that is a name of its own. Names that
    differ only by case count as equal, because some file systems treat them so.

    Args:
      names: file names without suffix.

    Returns:
      As many different names.
    """
    given = {name.casefold() for name in names}
    used: set[str] = set()
    result = []

    for name in names:
        candidate = name
        number = 1
        while candidate.casefold() in used or (
            number > 1 and candidate.casefold() in given
        ):
            number += 1
            candidate = f"{name}_{number}"

        used.add(candidate.casefold())
        result.append(candidate)

    return result
