"""The text of compiled programs: sizes of shapes, and text that is not a program."""

import pytest

from launch.compile_check import (
    count_collectives,
    count_kernels,
    estimated_cycles,
    memory_bytes,
)
from launch.compile_check.hlo import shape_bytes


@pytest.mark.parametrize(
    "count", [count_collectives, count_kernels, memory_bytes, estimated_cycles]
)
def test_what_is_no_program_is_refused(count):
    with pytest.raises(ValueError, match="no ENTRY"):
        count("nothing")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("f32[8,4]{1,0:T(8,128)}", 128),
        ("(bf16[3], pred[5], u8[])", 12),
        ("s4[3]", 2),
        ("f32[]", 4),
        ("()", 0),
    ],
)
def test_bytes_of_shapes(text, size):
    assert shape_bytes(text) == size
