"""Files that appear whole or not at all, local or in the cloud (anything `epath` opens)."""

import contextlib
import uuid
from collections.abc import Iterator

from etils import epath


@contextlib.contextmanager
def under_another_name(path: epath.PathLike) -> Iterator[epath.Path]:
    """Gives a file its name only once it is written; one that is there is replaced then.

    Args:
      path: where to, local or in the cloud; missing folders are made.

    Yields:
      What to write to, beside it; after an error it is removed.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A short name, whatever the file's: one that adds to a long name would be too long.
    partial = path.parent / f".{uuid.uuid4().hex[:12]}.part"
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: epath.PathLike, content: bytes) -> None:
    """Writes a file under another name beside it, then renames it.

    Args:
      path: where to, local or in the cloud; missing folders are made, an existing file is replaced.
      content: the bytes.
    """
    with under_another_name(path) as partial:
        partial.write_bytes(content)
