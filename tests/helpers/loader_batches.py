"""Configs of small sets of images, and the batches that a loader draws from them."""

import itertools

import numpy as np


def config(
    path, backend="memory", *, size, method="motion_cycle", batch_size=4, **data
):
    """Returns the part of a run's config that a loader needs.

    The source is a folder of images unless `data` says otherwise.
    """
    options = {
        "source": "folder",
        "path": str(path),
        "backend": backend,
        "memory_gb": 1.0,
        "min_frames": 1,
        "identity_depth": 1,
        "max_tracks": 0,
        "decode_size": size,
        "eval_fraction": 0.0,
    }
    return {
        "method": method,
        "batch_size": batch_size,
        "seed": 3,
        "data": options | data,
    }


def first(loader, count, *, start=0):
    """The batches of so many steps; what reads ahead is stopped."""
    batches = loader.batches(start)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_same(one, two):
    """Batches are equal to the bit, and complete."""
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys() == {"frames", "track", "identity", "mirror"}
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
