"""Memory, bounds and words of a report; the search for the largest batch."""

import dataclasses
import json

import pytest

from launch.compile_check import (
    Collective,
    Kernels,
    Report,
    describe,
    largest_batch,
    parse_topology,
)

GIB = 2**30
SETTINGS = {
    "method": "motion_cycle",
    "width": 1.0,
    "dtype": "bfloat16",
    "image_size": 64,
    "batch_size": 64,
    "accumulate": 1,
    "fsdp": False,
    "effort": "full",
}


def report(**fields):
    return Report(
        parse_topology("v5e:4x4"),
        SETTINGS,
        arguments=2 * GIB,
        outputs=2 * GIB,
        donated=GIB,
        temporaries=GIB,
        flops=197e9,
        bytes=819e6,
        collectives=(Collective("all-reduce", 2, 10**8),),
        **fields,
    )


def test_donated_memory_counts_once():
    assert report().memory == 4 * GIB
    assert report().fits
    assert not report(code=13 * GIB).fits


def test_bounds_are_work_over_peak():
    assert report().bounds == pytest.approx(
        {"compute": 1e-3, "memory": 1e-3, "links": 1e-3}
    )
    alone = dataclasses.replace(report(), topology=parse_topology("v5e:1x1"))
    assert alone.bounds["links"] == 0


def test_the_text_says_what_the_numbers_are():
    text = describe(report(xla_seconds=2e-3, xla_left_out=3))
    assert "16 chips" in text
    assert "4 per chip" in text
    assert "25.0% of what it has" in text
    assert "2 ms, 3 operations left out" in text
    assert text.endswith("FITS")
    assert not describe(report()).endswith("NOT FIT")
    assert describe(report(refused="too much")).endswith("DOES NOT FIT: too much")


def test_json_holds_everything():
    read = json.loads(json.dumps(report().as_json()))
    assert read["topology"] == "v5e:4x4"
    assert read["chips"] == 16
    assert read["memory"] == 4 * GIB
    assert read["collectives"] == [{"kind": "all-reduce", "number": 2, "bytes": 10**8}]


def test_what_crosses_the_slices_is_reported():
    crossing = (Collective("all-reduce", 3, 25 * 10**6),)
    topology = parse_topology("v5e:4x4", slices=2)
    both = dataclasses.replace(report(), topology=topology, between_slices=crossing)
    text = describe(both)
    assert text.startswith("2 slices of v5e:4x4: 32 chips; ")
    assert "2 per chip" in text
    assert "25.000 MB of a chip, 400.000 MB of a slice" in text
    assert both.as_json()["between_slices"] == [crossing[0]._asdict()]
    nothing = dataclasses.replace(both, between_slices=())
    assert "between slices: nothing" in describe(nothing)
    assert "between slices" not in describe(report())


def test_slices_are_counted_from_one():
    assert parse_topology("v5e:4x4", slices=3).size == 48
    with pytest.raises(ValueError, match="slices must be at least 1, got 0"):
        parse_topology("v5e:4x4", slices=0)


@pytest.mark.parametrize(
    "text", ["v5e", "v5e:", "v9:2x2", "v5e:0x4", "v5e:4", "v5e:2x2x2", "v4:4x4", "4x4"]
)
def test_a_wrong_topology_is_a_sentence(text):
    with pytest.raises(ValueError, match=r"topology .*"):
        parse_topology(text)


def test_gpus_are_hosts_and_gpus_of_each():
    topology = parse_topology("h100:2x8")
    assert topology.size == 16
    for part in ("core_count: 132", "major: 9 }", '"NVIDIA H100 80GB HBM3"'):
        assert part in topology.chip.target
    assert parse_topology("h200:1x8").chip.memory > topology.chip.memory
    with pytest.raises(ValueError, match="of GPUs name the hosts"):
        parse_topology("h100:1x8", slices=2)


def test_kernels_of_a_gpu_are_reported():
    kernels = Kernels(
        fusions=948,
        triton=70,
        libraries=(("cudnn$convForward", 18),),
        others=(("copy", 149),),
        bytes=10**9,
    )
    text = describe(dataclasses.replace(report(), kernels=kernels))
    assert "948 fusions (70 by Triton), 18 library calls, 149 others" in text
    assert "cudnn$convForward" in text
    assert "kernels in a step" not in describe(report())


def test_traffic_that_is_not_known_is_left_out():
    unknown = dataclasses.replace(report(), bytes=0.0)
    assert set(unknown.bounds) == {"compute", "links"}
    assert "to and from memory" not in describe(unknown)


def test_topologies_are_counted():
    assert parse_topology("v4:4x4x8").size == 128
    assert str(parse_topology("v6e:16x16")) == "v6e:16x16"


@pytest.mark.parametrize("largest", [0, 1, 2, 37, 100, 128, 1000, 5000])
@pytest.mark.parametrize("start", [1, 100])
@pytest.mark.parametrize("reports_memory", [True, False])
def test_the_largest_batch_is_found_in_few_trials(largest, start, reports_memory):
    trials = []

    def trial(number):
        trials.append(number)
        fits = number <= largest
        return fits, 1000 * number if reports_memory and fits else 0

    found = largest_batch(trial, start=start, limit=1000 * largest + 500)
    assert found <= largest <= max(found + 1, 1.05 * found)
    assert len(set(trials)) == len(trials)
    if reports_memory and start <= largest:
        assert len(trials) <= 4


def test_the_first_batch_must_be_one_at_least():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        largest_batch(lambda number: (True, 1), start=0, limit=1)
