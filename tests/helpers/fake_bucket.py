"""A bucket in a local folder.

What epath does with gs:// paths happens in that folder.
"""

import contextlib
import os
import pathlib
from unittest import mock

from etils.epath import backend, gpath


class _Backend:
    """epath's local backend, with the paths of a bucket mapped to a folder."""

    def __init__(self, folder):
        self._folder = pathlib.Path(folder)

    def __getattr__(self, name):
        def done(*paths, **options):
            # Of `open` the second argument is the mode.
            return getattr(backend.os_backend, name)(
                *map(self._local, paths), **options
            )

        return done

    def _local(self, path):
        path = os.fspath(path)
        return (
            str(self._folder / path.removeprefix("gs://"))
            if path.startswith("gs://")
            else path
        )


@contextlib.contextmanager
def bucket(folder):
    """Maps gs://NAME to FOLDER/NAME while the context is active."""
    fake = _Backend(folder)
    local = gpath._GPath._backend
    choose = property(lambda path: fake if path._uri_scheme else local.fget(path))
    with mock.patch.object(gpath._GPath, "_backend", choose):
        yield
    # Nothing is written next to the bucket, such as into a local folder called 'gs:'.
    assert not (pathlib.Path.cwd() / "gs:").exists()
