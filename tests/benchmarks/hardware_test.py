import pytest

from benchmarks import hardware
from launch import compile_check


@pytest.mark.parametrize(
    "chip", compile_check.CHIPS.values(), ids=lambda chip: chip.name
)
def test_a_tpu_has_one_data_sheet(chip):
    assert compile_check.chip_of(chip.kind) is chip
    found = hardware.sheet(chip.kind, "bfloat16")
    assert found == (chip.flops, chip.bandwidth, chip.link_bandwidth)
    # Products of float32 are six of bfloat16.
    assert hardware.sheet(chip.kind, "float32").flops == pytest.approx(chip.flops / 6)
    assert hardware.sheet(chip.kind, "tf32").flops == pytest.approx(chip.flops / 3)


def test_gpus_by_a_part_of_their_name_and_nothing_for_others():
    assert hardware.sheet("NVIDIA H100 80GB HBM3", "bfloat16") == (
        989e12,
        3.35e12,
        450e9,
    )
    assert hardware.sheet("NVIDIA H200", "tf32").memory == 4.8e12
    # v5p's name begins those of other chips.
    assert hardware.sheet("TPU v5 something", "bfloat16") is None
    assert hardware.sheet("cpu", "float32") is None
