"""Media files: which files are images and videos, and how they are found and opened."""

import dataclasses
import logging
import os
import stat
from collections.abc import Sequence
from typing import BinaryIO

from etils import epath

from facecycle_jax.errors import UserError

log = logging.getLogger(__name__)

# Endings of image files in lower case, the same for training, preparing and every
# command.
IMAGE_SUFFIXES = (
    ".avif",
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
# Pillow's names of the formats that a file may have, whatever its ending. The list is
# closed, because Pillow hands PostScript to Ghostscript, which files can attack.
IMAGE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
# FFmpeg's names of the containers with these endings. None of them opens further files.
VIDEO_FORMATS = ("avi", "matroska", "mov")
# Encoded images above this are refused unread; decoders read whole files into memory.
MAX_FILE_BYTES = 512 << 20

# Identifies a folder or file, whatever path leads to it.
Key = tuple[int, int] | str


def is_image_name(name: str) -> bool:
    """Whether a file's name has an image's ending and is not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def is_video_name(name: str) -> bool:
    """Whether a file's name has a video's ending and is not hidden."""
    return name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith(".")


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is in cloud storage, such as gs://bucket/name."""
    return "://" in os.fspath(path)


def open_image_file(path: epath.PathLike) -> BinaryIO:
    """Opens a regular file for reading; never waits, as opening a named pipe would.

    Args:
      path: the file, local or in the cloud.

    Returns:
      The open file.

    Raises:
      FileNotFoundError: If there is no such file.
      UserError: If it is a folder, a pipe, a socket or a device, is larger than
        `MAX_FILE_BYTES`, or cannot be opened.
    """
    if is_remote(path):
        remote = epath.Path(path)
        if not remote.exists():
            raise FileNotFoundError(f"There is no file {path}.")
        if remote.is_dir():
            raise UserError(f"{path} is a folder, not an image.")
        _check_size(path, remote.stat().length)
        opened: BinaryIO = remote.open("rb")
        return opened

    try:
        # Without O_NONBLOCK, opening a pipe waits for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"There is no file {path}.") from None
    except PermissionError as error:
        raise UserError(f"{path} may not be read: permission denied.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}.") from error

    found = os.fstat(descriptor)
    if stat.S_ISDIR(found.st_mode):
        reason = "is a folder, not an image."
    elif not stat.S_ISREG(found.st_mode):
        reason = "is a pipe, a socket or a device; images must be regular files."
    else:
        file = os.fdopen(descriptor, "rb")
        try:
            _check_size(path, found.st_size)
        except UserError:
            file.close()
            raise
        return file

    os.close(descriptor)
    raise UserError(f"{path} {reason}")


def _check_size(path: epath.PathLike, size: int) -> None:
    """Refuses a file with more bytes than an image may have."""
    if size > MAX_FILE_BYTES:
        raise UserError(
            f"{path} has {size:,} bytes, more than the {MAX_FILE_BYTES:,} that an "
            "image may have."
        )


@dataclasses.dataclass(frozen=True)
class Folder:
    """One folder below a root.

    Attributes:
      root: index of its root in the list of roots.
      path: the folder.
      files: names of everything in it that is neither hidden nor a folder, sorted.
      left_out: names of links in it that are left out because their files are listed
        elsewhere.
    """

    root: int
    path: str
    files: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def walk(roots: Sequence[str], *, files_once: bool = True) -> list[Folder]:
    """Lists every folder below some roots, each once, whatever links lead to it.

    Links are followed after everything else. A link to a folder that is listed already
    or lies above a root is left out, because it could show one person's images as
    another's or lead in a circle. A root within another root counts as a root of its
    own. Hidden files and folders are left out.

    Args:
      roots: existing folders.
      files_once: also leave out links to files that are listed without them, and all
        but the first of several links to one file.

    Returns:
      The folders, in the order of root and path.

    Raises:
      UserError: If two roots are the same folder.
    """
    search = _Search()
    found: list[Folder] = []
    starts = list(enumerate(roots))
    for root_index, root in starts:
        key = key_of(root)
        if key in search.starts:
            raise UserError(
                f"{root!r}, folder {root_index + 1} of {', '.join(roots)}, is named "
                "twice."
            )

        search.starts.add(key)
        search.seen.add(key)

        # Record the folders above this root, up to one that is recorded already.
        above = os.path.dirname(os.path.realpath(root))
        while (key := key_of(above)) not in search.above:
            search.above.add(key)
            above = os.path.dirname(above)

    # Targets of links are searched after all real folders, in further rounds.
    while starts:
        for root_index, start in starts:
            found += search.below(root_index, start)
        starts = search.follow_links()

    if files_once:
        found = [search.without_repeated_links(folder) for folder in found]

    if search.left_out:
        log.warning(
            "%d links are left out, because what they lead to is listed without them "
            "or lies above; the first is %s",
            len(search.left_out),
            search.left_out[0],
        )

    return sorted(found, key=lambda folder: (folder.root, folder.path))


class _Search:
    """The state of a walk: folders, files and links met so far."""

    def __init__(self) -> None:
        # Folders that a walk starts from: roots and targets of links.
        self.starts: set[Key] = set()
        # All folders below them.
        self.seen: set[Key] = set()
        # Folders above the roots. A link to one would include the rest of the disk.
        self.above: set[Key] = set()
        self.left_out: list[str] = []
        self._links: list[tuple[int, str]] = []
        self._linked_files: set[tuple[str, str]] = set()
        self._targets: set[Key] = set()

    def below(self, root_index: int, start: str) -> list[Folder]:
        """Lists a folder and the real folders below it, and records links to follow."""
        found = []
        waiting: list[tuple[str, frozenset[Key]]] = [(start, frozenset())]
        while waiting:
            path, above = waiting.pop()
            try:
                with os.scandir(path) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
                key = key_of(path)
            except OSError as error:
                log.warning("The folder %s is left out: %s", path, error.strerror)
                continue

            # A mount can show a folder above as one below. Some file systems assign a
            # number twice, so real folders are compared with few others only.
            if key in above or (above and key in self.starts):
                continue

            self.seen.add(key)

            files = []
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not _is_folder(entry):
                    files.append(entry.name)
                    if entry.is_symlink():
                        self._linked_files.add((path, entry.name))
                elif entry.is_symlink():
                    self._links.append((root_index, entry.path))
                else:
                    waiting.append((entry.path, above | {key}))

            found.append(Folder(root=root_index, path=path, files=tuple(files)))

        return found

    def follow_links(self) -> list[tuple[int, str]]:
        """Returns the linked folders that are not listed yet, as further starts."""
        starts = []
        for root_index, path in sorted(self._links):
            try:
                key = key_of(path)
            except OSError as error:
                log.warning("The link %s is left out: %s", path, error.strerror)
                continue

            if key in self.seen or key in self.above:
                self.left_out.append(path)
                continue

            self.starts.add(key)
            self.seen.add(key)
            starts.append((root_index, path))

        self._links = []

        return starts

    def without_repeated_links(self, folder: Folder) -> Folder:
        """Leaves out links to files that are listed elsewhere."""
        kept = []
        repeated = []
        for name in folder.files:
            path = os.path.join(folder.path, name)
            if (folder.path, name) in self._linked_files and self._is_listed(path):
                repeated.append(name)
                self.left_out.append(path)
            else:
                kept.append(name)

        return dataclasses.replace(folder, files=tuple(kept), left_out=tuple(repeated))

    def _is_listed(self, link: str) -> bool:
        """Whether a link's file is listed in its own folder or by an earlier link."""
        real = os.path.realpath(link)
        try:
            target = key_of(real)
            parent = key_of(os.path.dirname(real))
        except OSError:
            # A broken link stays, so that reading reports it.
            return False

        name = os.path.basename(real)
        listed = parent in self.seen and (is_image_name(name) or is_video_name(name))
        if listed or target in self._targets:
            return True

        self._targets.add(target)

        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, or to where nobody may look. Reading it reports that.
        return False


def key_of(path: str) -> Key:
    """Returns a key that is equal for all paths to the same folder or file.

    Args:
      path: an existing file or folder.

    Returns:
      The numbers of device and file, or the real path on file systems without numbers.
    """
    found = os.stat(path)
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)
