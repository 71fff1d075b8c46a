"""The input case measures every backend, and no rate of reading.

No time is asserted.
"""

import threading

from PIL import Image

from benchmarks import cases, feeding, ours
from facecycle_jax.errors import UserError


def write_tracks(folder):
    for person in range(5):
        (folder / f"{person}").mkdir()
        for frame in range(4):
            Image.new("RGB", (24, 24)).save(folder / f"{person}" / f"{frame}.jpg")


def test_the_default_backend_is_measured_and_no_rate_is_shown(monkeypatch):
    class WithoutTensorflow:
        def batches(self, start):
            raise UserError("tensorflow is not installed.")
            yield

    def make_loader(config, *, split):
        if config["data"]["backend"] == "tf":
            return WithoutTensorflow()
        return real(config, split=split)

    # No face is drawn and little is compiled.
    real = feeding.data.make_loader
    monkeypatch.setattr(feeding, "write_tracks", write_tracks)
    monkeypatch.setattr(feeding.data, "make_loader", make_loader)
    monkeypatch.setattr(
        feeding.ops, "augment_pairs", lambda key, batch, *, size: batch["frames"]
    )

    setting = ours.Setting(batch=2, width=1.0, precision="float32", device="cpu")
    rows = cases.measure("input", setting, [], repeats=1)
    by_name = {row.program: row for row in rows}
    assert list(by_name) == [
        "frames, memory",
        "frames, threads",
        "frames, tf",
        "augmentation on the device",
    ]
    assert by_name["frames, threads"].median_ms is not None
    # The first batch was drawn before, and its time counts all the same.
    assert by_name["frames, threads"].first_call_s > 1e-4
    assert "tensorflow is not installed" in by_name["frames, tf"].note
    # A batch that was read ahead takes no time, and its rate would mean nothing.
    assert all(row.images_per_s is None for row in rows)
    # The loaders ended with the folder that they read from.
    assert not [t for t in threading.enumerate() if t.name.startswith("reader")]
