"""Thousands of damaged PyTorch checkpoints are read or refused, and execute nothing."""

import functools
import os
import pickle

import numpy as np
import pytest
import torch_files
from mutations import damaged, outcomes

from facecycle_jax.errors import UserError
from facecycle_jax.interop.torch_file import read_torch

pytestmark = pytest.mark.slow
COUNT = 1500
STATE = {
    "encoder": {
        "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "bias": np.ones(3, np.float16),
    },
    "steps": np.arange(3),
    "epoch": 19,
    "optimizer": {"lr": 5e-5, "betas": (0.9, 0.999), "name": "adam"},
}


def attempts_at(path, contents):
    def attempt(content):
        path.write_bytes(content)
        read_torch(path)

    return [functools.partial(attempt, content) for content in contents]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_damaged_checkpoints_are_read_or_refused(tmp_path, legacy):
    whole = torch_files.checkpoint(STATE, legacy=legacy)
    rng = np.random.default_rng(0)
    contents = [damaged(whole, rng) for _ in range(COUNT)]
    counts = outcomes(
        attempts_at(tmp_path / "x.tar", contents), allowed=(UserError, OSError)
    )
    print(f"legacy {legacy}: {counts['read']} read, {counts['refused']} refused")
    assert counts["refused"]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_damaged_pickles_in_whole_files_are_read_or_refused(tmp_path, legacy):
    # The archive's checksums agree, so that the reader of pickles sees every damage.
    tree = torch_files._Tree(legacy=legacy)
    tree.out.write(b"\x80\x02")
    tree.visit(STATE)
    tree.out.write(b".")
    whole = tree.out.getvalue()

    pack = torch_files.pack_legacy if legacy else torch_files.pack_zip
    rng = np.random.default_rng(1)
    contents = [pack(damaged(whole, rng), tree.storages) for _ in range(COUNT)]
    counts = outcomes(
        attempts_at(tmp_path / "x.tar", contents), allowed=(UserError, OSError)
    )
    print(
        f"pickle, legacy {legacy}: {counts['read']} read, {counts['refused']} refused"
    )
    assert counts["refused"]


class _Calls:
    """Would make a folder if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_damaged_pickles_that_call_something_execute_nothing(tmp_path):
    rng = np.random.default_rng(2)
    contents = []
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        whole = pickle.dumps({"weights": _Calls(tmp_path / "called")}, protocol)
        for _ in range(COUNT // 6):
            contents.append(torch_files.pack_zip(damaged(whole, rng)))

    counts = outcomes(
        attempts_at(tmp_path / "x.tar", contents), allowed=(UserError, OSError)
    )
    print(f"pickles with calls: {counts['read']} read, {counts['refused']} refused")
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]
