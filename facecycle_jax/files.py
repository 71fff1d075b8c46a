"""Files that appear whole or not at all, and files that can be read or not.

They are local or in the cloud, wherever `epath` can write.
"""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import IO, Any

from etils import epath

from facecycle_jax.errors import UserError

# Bytes read at once to find out whether a file can be read.
_READ_BYTES = 2**20
# Name of a file that is being written, see `under_another_name`.
_PARTIAL = re.compile(r"\.[0-9a-f]{12}\.part")
# Bases of the errors of storage in the cloud, of TensorFlow, gcsfs and the clients of
# Google and Amazon, by name: none of these packages need be installed.
_OF_CLOUD = frozenset(
    {"OpError", "HttpError", "GoogleAPICallError", "GoogleAuthError", "ClientError"}
)
# Seconds after its last change from which an unfinished file counts as a leftover.
_LEFT_AFTER = 3600.0


@contextlib.contextmanager
def under_another_name(path: epath.PathLike) -> Iterator[epath.Path]:
    """Gives a file its name only once it is written.

    An existing file is replaced at that moment.

    Args:
      path: where to, local or in the cloud; missing folders are made.

    Yields:
      The path to write to, in the same folder; after an error it is removed.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)

    # A name of its own: an addition to a long name could become too long.
    partial = path.parent / f".{uuid.uuid4().hex[:12]}.part"
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: epath.PathLike) -> None:
    """Removes what killed processes have left of files that they were writing.

    It is called while the lock of the folder is held. No process that needs the lock
    for writing there can then be alive. Others may write there without it, such as an
    evaluation of a run, but they change their file all the time. A file that has
    changed within the last hour therefore stays until a later call.

    Args:
      folder: the folder, without those in it. In a bucket, where nothing can be locked,
        nothing is removed. A leftover that cannot be removed stays.
    """
    if "://" in os.fspath(folder):
        return

    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            # Only files: `new_folder` makes folders of this form.
            if not _PARTIAL.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):
                is_file = entry.is_file(follow_symlinks=False)
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if is_file and age > _LEFT_AFTER:
                    os.unlink(entry.path)


@contextlib.contextmanager
def named_in_errors(path: epath.PathLike) -> Iterator[None]:
    """Adds the file's name to an OSError that has none, as that of a full disk has.

    It replaces the name under which `under_another_name` writes.

    Args:
      path: the file that is being written.
    """
    try:
        yield
    except OSError as error:
        named = error.filename is not None
        partial = named and _PARTIAL.fullmatch(os.path.basename(str(error.filename)))
        if error.errno is None or (named and not partial):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_whole(path: epath.PathLike, content: bytes) -> None:
    """Writes a file under another name in its folder, then renames it.

    Args:
      path: where to, local or in the cloud; missing folders are made, an existing file
        is replaced.
      content: the bytes.
    """
    with named_in_errors(path), under_another_name(path) as partial:
        partial.write_bytes(content)


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a text as UTF-8; it appears whole or not at all.

    Args:
      path: see `under_another_name`.
      text: the content. Bytes of file names in it that are not UTF-8 are escaped.
    """
    write_whole(path, text.encode(errors="backslashreplace"))


def write_if_name_fits(path: epath.PathLike, content: bytes) -> bool:
    """Writes a file as `write_whole` does, unless the file system refuses its name.

    Args:
      path: where to.
      content: the bytes.

    Returns:
      Whether it was written; False if its name is too long.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False
    return True


def write_json(path: epath.PathLike, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, whole or not at all.

    Args:
      path: where to, local or in the cloud; see `write_whole`.
      content: JSON values by name.
    """
    write_whole(path, f"{json.dumps(content, indent=1)}\n".encode())


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """Reads a JSON object that this package has written.

    Args:
      path: local or in the cloud.

    Returns:
      JSON values by name.

    Raises:
      FileNotFoundError: If there is no such file.
      UserError: If it holds something else.
    """
    try:
        return dict(json.loads(epath.Path(path).read_text()))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is broken ({error}): remove it.") from None


def is_of_storage(error: BaseException) -> bool:
    """Whether an error is one of storage, local or in the cloud.

    Args:
      error: the error.

    Returns:
      True for an OSError, and for errors of TensorFlow's file system, gcsfs and the
      cloud's clients, which need not be one.
    """
    of_cloud = any(kind.__name__ in _OF_CLOUD for kind in type(error).__mro__)
    return isinstance(error, OSError) or of_cloud


def read_through(file: IO[bytes]) -> None:
    """Reads an open file to its end and keeps nothing, to find out whether it can be.

    Args:
      file: the file.

    Raises:
      OSError: If its storage fails.
    """
    while file.read(_READ_BYTES):
        pass


def check_new(path: epath.PathLike) -> None:
    """Refuses a path that exists, even as a dangling link.

    Args:
      path: local or in the cloud.

    Raises:
      FileExistsError: if it exists.
    """
    if os.path.lexists(path) or epath.Path(path).exists():
        raise FileExistsError(
            f"{path} exists already; choose another name or remove it."
        )


@contextlib.contextmanager
def new_folder(path: epath.PathLike, *, last: str) -> Iterator[pathlib.Path]:
    """Makes a folder that appears whole or not at all.

    Buckets cannot rename a folder at once. There its files are copied one by one, with
    `last` at the end, because the folder is not valid without it.

    Args:
      path: the folder to make, local or in the cloud; missing folders above are made.
      last: name of the file that says what the folder is.

    Yields:
      A local folder to write to; after an error nothing is left.

    Raises:
      FileExistsError: if the path exists.
    """
    check_new(path)
    target = epath.Path(path)

    if "://" in str(path):
        with tempfile.TemporaryDirectory() as scratch:
            yield pathlib.Path(scratch)
            _copy_files(pathlib.Path(scratch), target, last=last)
        return

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(target.parent) / f".{uuid.uuid4().hex[:12]}.part"
    try:
        partial.mkdir()
        yield partial
        partial.rename(pathlib.Path(target))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_files(source: pathlib.Path, target: epath.Path, *, last: str) -> None:
    """Copies the files of a folder and of its folders, `last` at the end.

    After an error it removes the copies.
    """
    files = [file for file in source.rglob("*") if file.is_file()]
    names = [file.relative_to(source).as_posix() for file in files]
    names.sort(key=lambda name: (name == last, name))

    try:
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((source / name).read_bytes())
    except BaseException:
        for name in names:
            (target / name).unlink(missing_ok=True)
        raise
