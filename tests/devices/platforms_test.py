"""JAX_PLATFORMS is checked before anything is trained."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("platforms", "words"),
    [
        ("", ""),
        ("cpu", ""),
        ("cuda", "leaves out the CPU, on which batches are drawn: set it to cuda,cpu."),
        # Without a GPU JAX takes the CPU without a word.
        ("cuda,cpu", "asks for cuda, and JAX finds no such device"),
        ("nothing,cpu", "JAX cannot use JAX_PLATFORMS=nothing,cpu"),
    ],
)
def test_platforms_that_cannot_be_used_are_sentences(platforms, words):
    program = (
        "from facecycle_jax.devices import check_platforms\n"
        "from facecycle_jax.errors import UserError\n"
        "try:\n"
        "    check_platforms()\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    # No GPU, whatever the machine has.
    environment = {**os.environ, "JAX_PLATFORMS": platforms, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert words in result.stdout
    assert bool(result.stdout) == bool(words)
