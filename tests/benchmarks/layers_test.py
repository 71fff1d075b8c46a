"""Single layers are measured; programs held against each other compute the same.

No time is asserted.
"""

import numpy as np
import pytest

from benchmarks import layers
from benchmarks.ours import Setting
from facecycle_jax import ops

SETTING = Setting(batch=1, width=1.0, precision="float32", device="cpu")


def test_every_layer_has_its_rows(monkeypatch):
    monkeypatch.setattr(layers, "CONVOLUTIONS", ((3, 8, 5, 3), (2, 16, 4, 2)))
    monkeypatch.setattr(layers, "POOLINGS", ((8, 3),))
    rows = layers.measure(SETTING, torch=False, repeats=1, peak=1e12)
    assert [row.case for row in rows if row.program == "ours"] == [
        "kernel's gradient 3x3, 8x8x5 to 3",
        "kernel's gradient 2x2, 16x16x4 to 2",
        "max pooling 8x8x3 with gradient",
    ]
    assert [row.program for row in rows] == ["ours", "library"] * 3
    # Along an axis of 8 pixels, 3 taps fall 22 times on a pixel and twice on padding.
    flops = 2 * (2 * 22**2 * 5 * 3)
    assert rows[0].share_of_peak == pytest.approx(
        flops / 1e12 / (rows[0].median_ms / 1e3)
    )


@pytest.mark.parametrize(("taps", "side"), [(2, 7), (3, 8)])
def test_both_forms_of_a_kernel_s_gradient_compute_the_same(taps, side):
    arrays = layers._draw((2, 8, 8, 70), (2, side, side, 4))
    ours, library = (
        layers._program(layers._kernel_gradient(conv, taps), arrays, SETTING)()[0]
        for conv in (ops.conv, layers._library_conv)
    )
    np.testing.assert_allclose(ours, library, atol=1e-4)


def test_both_forms_of_pooling_compute_the_same():
    arrays = layers._draw((2, 8, 8, 3), (2, 4, 4, 3))
    ours, library = (
        layers._program(layers._pooled(pool), arrays, SETTING)()
        for pool in (ops.max_pool, layers._library_pool)
    )
    np.testing.assert_array_equal(ours[0], library[0])
    np.testing.assert_array_equal(ours[1][0], library[1][0])


@pytest.mark.parametrize(("taps", "side"), [(2, 7), (3, 8)])
def test_pytorch_computes_the_same_gradient_of_a_kernel(taps, side):
    pytest.importorskip("torch", reason="PyTorch is not a dependency")
    arrays = layers._draw((2, 8, 8, 5), (2, side, side, 4))
    gradient = layers._kernel_gradient(ops.conv, taps)
    (ours,) = layers._program(gradient, arrays, SETTING)()

    options = {"taps": taps, "padding": layers.padding_of(taps)}
    theirs = layers.torch_program(
        "kernel_gradient_program", *arrays, setting=SETTING, **options
    )()
    np.testing.assert_allclose(ours, theirs.permute(2, 3, 1, 0), atol=1e-4)


def test_pytorch_computes_the_same_pooling():
    pytest.importorskip("torch", reason="PyTorch is not a dependency")
    arrays = layers._draw((2, 8, 8, 3), (2, 4, 4, 3))
    _, (ours,) = layers._program(layers._pooled(ops.max_pool), arrays, SETTING)()
    (theirs,) = layers.torch_program("max_pool_program", *arrays, setting=SETTING)()
    np.testing.assert_array_equal(ours, theirs.permute(0, 2, 3, 1))
