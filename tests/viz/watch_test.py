import threading

import pytest

from facecycle_jax.viz import new_panels


def write(folder, name):
    (folder / "panels").mkdir(parents=True, exist_ok=True)
    (folder / "panels" / name).write_bytes(b"")


def test_panels_come_once_in_order_and_to_the_last(tmp_path):
    write(tmp_path, "00000001.png")
    answers = iter([True, True, False])
    written = iter([["00000002.png"], [], ["00000003.png", "00000004.png"]])

    def running():
        for name in next(written):
            write(tmp_path / "motion", name)
        return next(answers)

    found = [
        path.name for path in new_panels(tmp_path, running=running, interval=0.001)
    ]
    assert found == ["00000002.png", "00000003.png", "00000004.png"]


def test_a_run_that_writes_nothing_ends(tmp_path):
    stop = threading.Event()
    stop.set()
    assert list(new_panels(tmp_path / "none", running=lambda: not stop.is_set())) == []
    with pytest.raises(ValueError, match="above 0"):
        list(new_panels(tmp_path, running=lambda: False, interval=0))
