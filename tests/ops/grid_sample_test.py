"""Grid sampling: reference numbers, the derivative rule and odd coordinates."""

import itertools

import golden as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from facecycle_jax.ops import grid_sample, identity_grid

PADDINGS = ("zeros", "border", "reflection")
MODES = ("bilinear", "nearest")
OWN = ("gather", "dense", "separable")
ALL = (*OWN, "autodiff", "auto")
VARIANTS = list(itertools.product(MODES, PADDINGS, ("corners", "centers")))


def random(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def sampler(implementation, *, padding="zeros", mode="bilinear", align_corners=True):
    return lambda image, grid: grid_sample(
        image,
        grid,
        align_corners=align_corners,
        padding=padding,
        mode=mode,
        implementation=implementation,
    )


@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize(("mode", "padding", "corners"), VARIANTS)
def test_values_and_both_gradients_agree_with_reference(
    mode, padding, corners, implementation
):
    """Absolute 1e-5: float32 rounding of sums of a few terms of size 1.

    Gradients by the grid are times the number of pixels.
    """
    numbers = reference.golden()
    image, grid, cotangent = (
        jnp.asarray(numbers[f"grid_sample/{name}"])
        for name in ("image", "grid", "cotangent")
    )
    sample = sampler(
        implementation, padding=padding, mode=mode, align_corners=corners == "corners"
    )
    out, vjp = jax.vjp(sample, image, grid)
    d_image, d_grid = vjp(cotangent)
    key = f"grid_sample/{mode}-{padding}-{corners}"
    np.testing.assert_allclose(out, numbers[key], atol=1e-5)
    np.testing.assert_allclose(d_image, numbers[f"{key}/d_image"], atol=1e-5)
    np.testing.assert_allclose(d_grid, numbers[f"{key}/d_grid"], atol=3e-5)


@pytest.mark.parametrize("shape", [(5, 7, 3), (7, 4, 9)])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("align_corners", [True, False])
def test_derivative_rule_equals_autodiff(shape, padding, align_corners):
    image, grid = random(2, *shape), 1.3 * random(2, 6, 3, 2, seed=1)
    cotangent = random(2, 6, 3, shape[-1], seed=2)
    results = []
    for implementation in ("autodiff", *OWN):
        sample = sampler(implementation, padding=padding, align_corners=align_corners)
        out, vjp = jax.vjp(sample, image, grid)
        results.append((out, *vjp(cotangent)))
    for ours in results[1:]:
        for a, b in zip(results[0], ours, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


def test_gradients_agree_with_finite_differences():
    image = random(1, 5, 6, 2)
    # Away from pixel centres, where the derivative jumps.
    grid = identity_grid(height=5, width=6)[None] * 0.8 + 0.03
    check_grads(
        sampler("gather"),
        (image, grid),
        order=1,
        modes=["rev"],
        atol=1e-2,
        rtol=1e-2,
        eps=1e-3,
    )


def test_autodiff_gives_second_derivatives():
    image, grid = random(1, 4, 4, 1), jnp.array([[[[0.13, -0.21]]]])

    def value(grid):
        return sampler("autodiff")(image, grid).sum()

    hessian = jax.hessian(value)(grid).reshape(2, 2)
    corner = image[0, :, :, 0]
    # Position (1.695, 1.185): the mixed derivative is that of the bilinear form, times
    # the scales.
    mixed = corner[2, 2] - corner[2, 1] - corner[1, 2] + corner[1, 1]
    np.testing.assert_allclose(
        hessian, jnp.array([[0, 1], [1, 0]]) * mixed * 1.5**2, atol=1e-5
    )
    _, tangent = jax.jvp(value, (grid,), (jnp.ones_like(grid),))
    np.testing.assert_allclose(tangent, jax.grad(value)(grid).sum(), rtol=1e-5)


@pytest.mark.parametrize("implementation", OWN)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("align_corners", [True, False])
def test_identity_grid_gives_the_image(implementation, padding, align_corners):
    image = random(2, 5, 7, 3)
    grid = jnp.broadcast_to(
        identity_grid(height=5, width=7, align_corners=align_corners), (2, 5, 7, 2)
    )
    sample = sampler(implementation, padding=padding, align_corners=align_corners)
    np.testing.assert_allclose(sample(image, grid), image, atol=1e-5)


@pytest.mark.parametrize("implementation", OWN)
def test_border_samples_stay_within_the_image_range(implementation):
    image, grid = random(2, 5, 7, 3), 3 * random(2, 9, 9, 2, seed=1)
    out = sampler(implementation, padding="border")(image, grid)
    assert float(out.max()) <= float(image.max()) + 1e-5
    assert float(out.min()) >= float(image.min()) - 1e-5


@pytest.mark.parametrize("implementation", OWN)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -3e38])
def test_odd_coordinates_stay_local(implementation, padding, value):
    image, grid = 1 + jnp.abs(random(1, 5, 7, 3)), random(1, 3, 4, 2, seed=1)
    odd = grid.at[0, 1, 2, 0].set(value)
    sample = sampler(implementation, padding=padding)
    normal, vjp_normal = jax.vjp(sample, image, grid)
    out, vjp = jax.vjp(sample, image, odd)
    others = np.ones((3, 4), bool)
    others[1, 2] = False
    np.testing.assert_array_equal(out[0][others], normal[0][others])
    assert np.isfinite(out).all()
    nowhere = np.isnan(value) or padding == "reflection"
    if padding == "zeros" or nowhere:
        np.testing.assert_array_equal(out[0, 1, 2], 0.0)
    elif padding == "border":
        assert (out[0, 1, 2] >= 1).all()
    cotangent = random(1, 3, 4, 3, seed=2)
    d_image, d_grid = vjp(cotangent)
    assert np.isfinite(d_image).all()
    np.testing.assert_array_equal(d_grid[0, 1, 2, 0], 0.0)
    np.testing.assert_allclose(
        d_grid[0][others], vjp_normal(cotangent)[1][0][others], atol=1e-5
    )
    if nowhere:
        only_here = jnp.zeros_like(cotangent).at[0, 1, 2].set(1.0)
        np.testing.assert_array_equal(vjp(only_here)[0], 0.0)


@pytest.mark.parametrize("implementation", OWN)
def test_bfloat16_stays_within_its_rounding(implementation):
    """Values to 2^-8 relative.

    Positions are float32 in both, so nothing else differs.
    """
    image, grid = random(2, 6, 6, 8), random(2, 5, 5, 2, seed=1)
    exact = sampler(implementation)(image, grid)
    rough = sampler(implementation)(image.astype(jnp.bfloat16), grid)
    assert rough.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough.astype(jnp.float32), exact, atol=0.03)
    d_image = jax.grad(
        lambda i: sampler(implementation)(i, grid).astype(jnp.float32).sum()
    )(image.astype(jnp.bfloat16))
    assert d_image.dtype == jnp.bfloat16


@pytest.mark.parametrize("implementation", ALL)
def test_jit_vmap_and_leading_axes_agree(implementation):
    image, grid = random(2, 3, 5, 4, 2), random(2, 3, 4, 6, 2, seed=1)
    sample = sampler(implementation)
    expected = sample(image, grid)
    assert expected.shape == (2, 3, 4, 6, 2)
    np.testing.assert_allclose(jax.jit(sample)(image, grid), expected, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(sample)(image, grid), expected, atol=1e-6)
    np.testing.assert_allclose(
        sample(image[1, 2], grid[1, 2]), expected[1, 2], atol=1e-6
    )
    # One image, many grids.
    np.testing.assert_allclose(
        sample(image[:1], grid)[1], sample(image[0], grid[1]), atol=1e-6
    )


def test_auto_takes_products_where_it_is_compiled_for_a_tpu():
    image, grid = jnp.zeros((1, 16, 16, 8)), jnp.zeros((1, 16, 16, 2))
    traced = jax.jit(sampler("auto")).trace(image, grid)
    tpu = traced.lower(lowering_platforms=("tpu",)).as_text()
    cpu = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "dot_general" in tpu
    assert "gather" in cpu
    assert "dot_general" not in cpu


def test_agrees_with_pytorch_on_wide_random_grids():
    torch = pytest.importorskip("torch", reason="PyTorch is not a dependency")
    image, grid = random(3, 6, 9, 4), 4 * random(3, 20, 20, 2, seed=1)
    for mode, padding, align_corners in itertools.product(
        MODES, PADDINGS, (True, False)
    ):
        expected = torch.nn.functional.grid_sample(
            torch.tensor(np.array(image)).permute(0, 3, 1, 2),
            torch.tensor(np.array(grid)),
            mode=mode,
            padding_mode=padding,
            align_corners=align_corners,
        ).permute(0, 2, 3, 1)
        sample = sampler(
            "gather", mode=mode, padding=padding, align_corners=align_corners
        )
        np.testing.assert_allclose(sample(image, grid), expected, atol=1e-4)


def test_wrong_arguments_are_named():
    image, grid = jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 2))
    sample = sampler("gather")
    with pytest.raises(ValueError, match="'mirror'"):
        sampler("gather", padding="mirror")(image, grid)
    with pytest.raises(ValueError, match="'cubic'"):
        sampler("gather", mode="cubic")(image, grid)
    with pytest.raises(ValueError, match="'fast'"):
        sampler("fast")(image, grid)
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 3\)"):
        sample(image, jnp.zeros((2, 4, 4, 3)))
    with pytest.raises(ValueError, match="do not broadcast"):
        sample(image, grid[:1].repeat(3, axis=0))
    with pytest.raises(ValueError, match="int32"):
        sample(image.astype(jnp.int32), grid)
    with pytest.raises(ValueError, match="no pixels"):
        sample(image[:, :0], grid)


@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", [(1, 5, 2), (5, 1, 2), (1, 1, 2)])
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e30, -3e38])
def test_odd_coordinates_along_an_axis_of_one_pixel_stay_finite(
    implementation, padding, shape, value
):
    image = 1 + jnp.abs(random(1, *shape))
    grid = jnp.zeros((1, 2, 3, 2)).at[0, 1, 2].set(value)
    sample = sampler(implementation, padding=padding)
    out, vjp = jax.vjp(sample, image, grid)
    d_image, d_grid = vjp(jnp.ones_like(out))
    for array in (out, d_image, d_grid):
        assert np.isfinite(array).all()
    if padding == "border":
        assert (out[0, 1, 2] >= 1).all()
    elif np.isinf(value):
        np.testing.assert_array_equal(out[0, 1, 2], 0.0)
    np.testing.assert_array_equal(d_grid[0, 1, 2], 0.0)


@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize(
    ("images", "places"), [((0,), (3, 4)), ((2, 0), (3, 4)), ((2,), (0, 4))]
)
def test_nothing_to_sample_gives_nothing(implementation, images, places):
    image, grid = jnp.ones((*images, 5, 7, 3)), jnp.zeros((*images, *places, 2))
    out, vjp = jax.vjp(sampler(implementation), image, grid)
    assert out.shape == (*images, *places, 3)
    d_image, d_grid = vjp(out)
    np.testing.assert_array_equal(d_image, jnp.zeros_like(image))
    assert d_grid.shape == grid.shape
