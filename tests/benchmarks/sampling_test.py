"""Grid sampling is measured; programs compared with each other compute the same.

No time is asserted.
"""

import numpy as np
import pytest

from benchmarks import sampling
from benchmarks.layers import torch_program
from benchmarks.ours import Setting

SETTING = Setting(batch=1, width=1.0, precision="float32", device="cpu")


def test_every_map_has_its_rows(monkeypatch):
    monkeypatch.setattr(sampling, "MAPS", ((8, 3),))
    rows = sampling.measure(SETTING, torch=False, repeats=1)
    assert [row.program for row in rows] == 2 * list(sampling.IMPLEMENTATIONS)
    assert rows[0].case == "grid-sample 8x8x3"
    assert rows[-1].case == "grid-sample 8x8x3 with gradients"
    assert all(row.median_ms is not None for row in rows)


def test_pytorch_computes_the_same_samples_and_gradients():
    pytest.importorskip("torch", reason="PyTorch is not a dependency")
    image, grid = sampling.draw_arrays((2, 8, 8, 3))
    ours = sampling.our_program(
        image, grid, implementation="gather", backward=True, setting=SETTING
    )
    out, (of_image, of_grid) = ours()

    # With gradients, PyTorch's program returns them alone.
    options = {"setting": SETTING, "backward": False}
    sampled = torch_program("grid_sample_program", image, grid, **options)()
    np.testing.assert_allclose(out, sampled.permute(0, 2, 3, 1), atol=1e-5)

    options["backward"] = True
    gradients = torch_program("grid_sample_program", image, grid, **options)()
    np.testing.assert_allclose(of_image, gradients[0].permute(0, 2, 3, 1), atol=1e-4)
    np.testing.assert_allclose(of_grid, gradients[1], atol=1e-3)
