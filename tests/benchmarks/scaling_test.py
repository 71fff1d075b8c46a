"""The scaling benchmark runs and reports errors in one sentence.

No time is asserted.
"""

import json

import pytest

from benchmarks import scaling


@pytest.mark.slow
def test_every_part_prints_its_table_and_json(tmp_path, capsys):
    file = tmp_path / "figures.json"
    tiny = ["--per-device", "1", "--width", "0.0625", "--repeats", "1", "--sizes", "64"]
    assert scaling.main([*tiny, "--json", str(file)]) == 0
    assert "fake devices" in capsys.readouterr().out
    rows = json.loads(file.read_text())["rows"]
    assert [row["program"] for row in rows if row["case"] == "weak scaling"] == [
        "1 device",
        "1 device",
        "2 devices",
        "1 device",
        "4 devices",
        "1 device",
        "8 devices",
    ]
    assert all(row["median_ms"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--parts", "strong"], "--parts takes weak, size"),
        (["--sizes", "64,big"], "--sizes takes 64, 128, 256"),
        (["--sizes", ""], "--sizes names nothing"),
        (["--per-device", "0"], "--per-device must be at least 1, got 0"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--width", "-1"], "--width must be above 0, got -1"),
    ],
)
def test_invalid_arguments_are_reported_in_one_sentence(arguments, words, capsys):
    assert scaling.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
