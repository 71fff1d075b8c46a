"""Files that appear whole or not at all, local or in the cloud (anything `epath` opens)."""

import uuid

from etils import epath


def write_whole(path: epath.PathLike, content: bytes) -> None:
    """Writes a file under another name beside it, then renames it.

    Args:
      path: where to, local or in the cloud; missing folders are made, an existing file is replaced.
      content: the bytes.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
