import pytest

from benchmarks import hardware
from launch import compile_check


@pytest.mark.parametrize(
    ("kind", "flops", "memory"),
    [
        ("TPU v4", 275e12, 1.2e12),
        ("TPU v5 lite", 197e12, 819e9),
        ("TPU v5", 459e12, 2.765e12),
        ("TPU v6 lite", 918e12, 1.638e12),
    ],
)
def test_a_tpu_has_the_peaks_that_the_vendor_states(kind, flops, memory):
    found = hardware.sheet(kind, "bfloat16")
    assert found.flops == pytest.approx(flops)
    assert found.memory == pytest.approx(memory)

    # Products of float32 are six of bfloat16, those of tensorfloat32 three.
    assert hardware.sheet(kind, "float32").flops == pytest.approx(flops / 6)
    assert hardware.sheet(kind, "tf32").flops == pytest.approx(flops / 3)


def test_every_chip_that_programs_compile_for_has_a_sheet():
    for chip in compile_check.CHIPS.values():
        assert hardware.sheet(chip.kind, "bfloat16").links == chip.link_bandwidth


def test_gpus_are_found_by_a_part_of_their_name_and_others_have_no_sheet():
    assert hardware.sheet("NVIDIA H100 80GB HBM3", "bfloat16") == (
        989e12,
        3.35e12,
        450e9,
    )
    assert hardware.sheet("NVIDIA H200", "tf32").memory == 4.8e12
    # v5p's name begins those of other chips.
    assert hardware.sheet("TPU v5 something", "bfloat16") is None
    assert hardware.sheet("cpu", "float32") is None
