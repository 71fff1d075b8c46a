"""Paths as users write them, on a command line or in a call."""

import os
import re

from etils import epath

from facecycle_jax.errors import UserError

# What stands before '://' in a path of cloud storage.
_BUCKETS = ("gs", "s3")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def given_path(
    path: str | os.PathLike[str], *, name: str, local: bool = False
) -> epath.Path:
    """Turns what a user has given as a path into one, and '~' into the home folder.

    Args:
      path: a local path, or that of a bucket.
      name: what it is, for messages, such as '--out'.
      local: whether a bucket is refused, because a library can only open local files.

    Returns:
      The path, which need not exist.

    Raises:
      UserError: If it is empty, an address that is neither local nor a bucket, or a
        bucket where only local paths work.
    """
    text = os.fspath(path)

    # An empty variable of the shell would mean the current folder.
    if not text.strip():
        raise UserError(f"{name} is empty: name a file or folder.")

    address = _ADDRESS.match(text)
    if address is None:
        return epath.Path(os.path.expanduser(text))
    if address[1] not in _BUCKETS:
        raise UserError(
            f"{name} {text}: {address[1]}:// is neither read nor written. Download the "
            "file first; buckets begin with gs://."
        )
    if local:
        raise UserError(
            f"{name} {text}: only local files work here. Mount the bucket, or copy the "
            "files."
        )
    return epath.Path(text)
