"""Pooling against figures by hand, and against PyTorch where it is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facecycle_jax.ops import adaptive_average_pool, max_pool
from facecycle_jax.ops.pooling import _largest_by_pairs, _largest_of_windows


def test_areas_that_divide_the_map_are_plain_averages():
    x = jax.random.normal(jax.random.key(0), (2, 6, 4, 3))
    expected = x.reshape(2, 2, 3, 2, 2, 3).mean((2, 4))
    np.testing.assert_allclose(adaptive_average_pool(x, side=2), expected, atol=1e-6)
    np.testing.assert_allclose(
        adaptive_average_pool(x, side=1), x.mean((1, 2), keepdims=True), atol=1e-6
    )


def test_areas_that_do_not_divide_the_map_overlap():
    x = jnp.arange(5.0)[:, None, None] * jnp.ones((5, 5, 1))
    rows = adaptive_average_pool(x, side=3)[:, 0, 0]
    np.testing.assert_allclose(rows, [0.5, 2.0, 3.5], atol=1e-6)


def test_a_map_smaller_than_side_keeps_its_size():
    x = jax.random.normal(jax.random.key(0), (1, 4, 9, 2))
    assert adaptive_average_pool(x, side=7).shape == (1, 4, 7, 2)
    np.testing.assert_allclose(
        adaptive_average_pool(x[:, :, :4], side=7), x[:, :, :4], atol=1e-6
    )
    with pytest.raises(ValueError, match="side must be at least 1, got 0"):
        adaptive_average_pool(x, side=0)


@pytest.mark.parametrize("side", [1, 4, 7, 13])
def test_areas_are_those_of_pytorch(side):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 25, 13, 3)).astype(np.float32)
    expected = torch.nn.functional.adaptive_avg_pool2d(
        torch.from_numpy(x.transpose(0, 3, 1, 2)), side
    )
    np.testing.assert_allclose(
        adaptive_average_pool(jnp.asarray(x), side=side),
        expected.numpy().transpose(0, 2, 3, 1),
        atol=1e-6,
    )


def test_both_forms_of_max_pooling_agree_in_values_and_gradients():
    rng = np.random.default_rng(0)
    # Few values, so that there are ties; an odd last row and column, which have no
    # cell.
    x = jnp.asarray(rng.integers(0, 4, (2, 9, 13, 3)), jnp.float32)
    (y, back), (expected, expected_back) = (
        jax.vjp(form, x) for form in (_largest_by_pairs, _largest_of_windows)
    )
    np.testing.assert_array_equal(y, expected)
    cotangent = jnp.asarray(rng.standard_normal(y.shape), jnp.float32)
    np.testing.assert_array_equal(back(cotangent)[0], expected_back(cotangent)[0])
    np.testing.assert_array_equal(max_pool(x), y)


def test_nan_propagates_through_max_pooling():
    x = jnp.ones((1, 2, 8, 1)).at[0, [0, 0, 1, 1], [0, 3, 4, 7]].set(jnp.nan)
    np.testing.assert_array_equal(_largest_by_pairs(x), jnp.full((1, 1, 4, 1), jnp.nan))
    np.testing.assert_array_equal(
        _largest_of_windows(x), jnp.full((1, 1, 4, 1), jnp.nan)
    )


def test_max_pooling_agrees_with_pytorch_where_values_are_equal():
    torch = pytest.importorskip("torch", reason="PyTorch is not a dependency")
    x = np.random.default_rng(0).integers(0, 3, (2, 6, 8, 4)).astype(np.float32)
    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    torch.nn.functional.max_pool2d(theirs, 2).square().sum().backward()
    ours = jax.grad(lambda x: jnp.sum(max_pool(x) ** 2))(jnp.asarray(x))
    np.testing.assert_array_equal(ours, theirs.grad.numpy().transpose(0, 2, 3, 1))
