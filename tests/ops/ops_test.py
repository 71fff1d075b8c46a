"""Resizing, pixel shuffle, pixel values, warps and SSIM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facecycle_jax import ops


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_resize_keeps_corners_and_linear_ramps():
    ramp = jnp.linspace(-1.0, 1.0, 5)[None, :, None, None] * jnp.ones((1, 5, 4, 1))
    resized = ops.resize_bilinear(ramp, height=9, width=4)
    np.testing.assert_allclose(resized[0, :, 0, 0], np.linspace(-1, 1, 9), atol=1e-6)
    image = random(2, 5, 7, 3)
    large = ops.resize_bilinear(image, height=11, width=9)
    np.testing.assert_allclose(
        large[:, [0, -1]][:, :, [0, -1]], image[:, [0, -1]][:, :, [0, -1]]
    )


def test_resize_to_own_size_is_identity_and_to_one_takes_first():
    image = random(2, 5, 7, 3)
    np.testing.assert_array_equal(ops.resize_bilinear(image, height=5, width=7), image)
    np.testing.assert_array_equal(
        ops.resize_bilinear(image, height=1, width=1), image[:, :1, :1]
    )
    with pytest.raises(ValueError, match="0 x 3"):
        ops.resize_bilinear(image, height=0, width=3)


def test_resize_agrees_with_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not a dependency")
    image = random(2, 6, 5, 3)
    expected = torch.nn.functional.interpolate(
        torch.tensor(np.array(image)).permute(0, 3, 1, 2),
        size=(12, 7),
        mode="bilinear",
        align_corners=True,
    )
    ours = ops.resize_bilinear(image, height=12, width=7)
    np.testing.assert_allclose(ours, expected.permute(0, 2, 3, 1), atol=1e-6)


def test_pixel_shuffle_takes_channels_in_pytorch_order():
    # Channel c * 4 + dy * 2 + dx of one pixel becomes channel c at (dy, dx).
    x = jnp.arange(12.0).reshape(1, 1, 1, 12)
    shuffled = ops.pixel_shuffle(x, factor=2)
    assert shuffled.shape == (1, 2, 2, 3)
    np.testing.assert_array_equal(shuffled[0, :, :, 1], [[4, 5], [6, 7]])
    image = random(2, 3, 3, 5, 16)
    assert ops.pixel_shuffle(image, factor=4).shape == (2, 3, 12, 20, 1)
    with pytest.raises(ValueError, match="12 and 5"):
        ops.pixel_shuffle(x, factor=5)


def test_normalise_round_trip_and_range():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    normal = ops.normalise(jnp.asarray(images))
    assert normal.dtype == jnp.float32
    np.testing.assert_array_equal(ops.denormalise(normal), images)
    np.testing.assert_allclose(
        ops.normalise(images / np.float32(255)), normal, atol=1e-6
    )
    assert ops.denormalise(jnp.full((1, 1, 3), jnp.nan)).tolist() == [[[0, 0, 0]]]
    assert ops.denormalise(jnp.full((1, 1, 3), 99.0)).tolist() == [[[255, 255, 255]]]
    with pytest.raises(ValueError, match=r"\(4, 4, 1\)"):
        ops.normalise(jnp.zeros((4, 4, 1)))


def test_normalise_lighting_moves_each_image_by_its_strength():
    rng = np.random.default_rng(0)
    scales, offsets = np.array([0.2, 0.5, 0.3]), np.array([0.1, 0.3, 0.4])
    images = (
        rng.random((3, 16, 12, 3)) * scales[:, None, None, None]
        + offsets[:, None, None, None]
    )
    images = jnp.asarray(images, jnp.float32)

    def luma(x):
        return np.asarray(x @ jnp.asarray([0.299, 0.587, 0.114]))

    mean, deviation = luma(images).mean((1, 2)), luma(images).std((1, 2))
    np.testing.assert_allclose(
        ops.normalise_lighting(images, strength=0.0), images, atol=1e-6
    )
    half = luma(ops.normalise_lighting(images, strength=0.5))
    wanted = np.mean([0.485, 0.456, 0.406]), np.mean([0.229, 0.224, 0.225])
    np.testing.assert_allclose(half.mean((1, 2)), np.sqrt(mean * wanted[0]), rtol=2e-2)
    np.testing.assert_allclose(
        half.std((1, 2)), np.sqrt(deviation * wanted[1]), rtol=2e-2
    )
    # One gain for all channels, up to what is clipped.
    red_less_green = (images[0, ..., 0] - images[0, ..., 1]) * np.sqrt(
        wanted[1] / deviation[0]
    )
    even = ops.normalise_lighting(images[0], strength=0.5)
    np.testing.assert_allclose(even[..., 0] - even[..., 1], red_less_green, atol=1e-5)
    np.testing.assert_allclose(
        ops.normalise_lighting(images, strength=0.5)[0], even, atol=1e-6
    )
    whole = ops.normalise_lighting(
        jnp.round(images * 255).astype(jnp.uint8), strength=0.5
    )
    assert whole.dtype == jnp.uint8
    np.testing.assert_allclose(whole[0] / 255, even, atol=0.02)


def test_normalise_lighting_keeps_flat_images_flat_and_names_wrong_arguments():
    for value in (0, 90, 255):
        flat = (
            jnp.full((8, 8, 3), value, jnp.uint8).at[0, 0].add(1 if value < 255 else 0)
        )
        even = np.asarray(ops.normalise_lighting(flat / 255, strength=1.0))
        assert np.isfinite(even).all()
        assert np.ptp(even) < 0.1
    with pytest.raises(ValueError, match="RGB"):
        ops.normalise_lighting(jnp.zeros((4, 4, 1)), strength=0.5)
    with pytest.raises(ValueError, match="strength must be 0 to 1, got -1"):
        ops.normalise_lighting(jnp.zeros((4, 4, 3)), strength=-1)


def test_warp_by_zero_flow_is_identity():
    image = random(2, 6, 9, 3)
    np.testing.assert_allclose(
        ops.warp(image, jnp.zeros((2, 3, 3, 2))), image, atol=1e-5
    )


def test_warp_moves_by_whole_pixels_and_fills_with_zeros():
    image = random(1, 5, 5, 2)
    flow = jnp.zeros((1, 5, 5, 2)).at[..., 0].set(2 / 4)  # one pixel of five
    moved = ops.warp(image, flow)
    np.testing.assert_allclose(moved[:, :, :4], image[:, :, 1:], atol=1e-5)
    np.testing.assert_allclose(moved[:, :, 4], 0.0, atol=1e-5)


def test_the_flow_is_cut_only_with_clamp():
    image, flow = random(1, 5, 5, 2), jnp.full((1, 5, 5, 2), 1.5)
    cut = ops.warp(image, jnp.ones_like(flow))
    np.testing.assert_allclose(ops.warp(image, flow, clamp=True), cut, atol=1e-6)
    assert not np.allclose(ops.warp(image, flow), cut)


def test_backward_flow_inverts_a_translation():
    flow = jnp.full((1, 16, 16, 2), 0.25)
    back = ops.backward_flow(flow)
    np.testing.assert_allclose(back[:, 2:-4, 2:-4], -0.25, atol=1e-6)
    assert float(jnp.max(jnp.abs(ops.backward_flow(flow * 8)))) <= 1.0


def test_ssim_bounds_symmetry_and_equality():
    a, b = random(4, 20, 17, 3), random(4, 20, 17, 3, seed=1)
    np.testing.assert_allclose(ops.ssim(a, a), 1.0, atol=1e-6)
    np.testing.assert_allclose(ops.ssim(a, b), ops.ssim(b, a), atol=1e-6)
    assert np.all(np.abs(ops.ssim(a, b)) <= 1.0)
    assert ops.ssim(a, b).shape == (4,)
    # Larger constants see less of a small difference.
    near = 0.1 * a
    assert np.all(
        ops.ssim(near, near + 0.01 * b, value_range=4.7)
        > ops.ssim(near, near + 0.01 * b)
    )
    with pytest.raises(ValueError, match="one shape"):
        ops.ssim(a, b[:2])
    with pytest.raises(ValueError, match="odd"):
        ops.ssim(a, b, window=10)


def ssim_in_float64(a, b):
    """The formula as it stands in the paper, with zero padding, in double precision."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets**2) / 4.5)
    weights /= weights.sum()

    def blur(x):
        for axis in (-3, -2):
            x = np.apply_along_axis(np.convolve, axis, x, weights, "same")
        return x

    a, b = np.float64(a), np.float64(b)
    mean_a, mean_b = blur(a), blur(b)
    variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    structure = (2 * covariance + 9e-4) / (variances + 9e-4)
    return (luminance * structure).mean(axis=(-3, -2, -1))


@pytest.mark.parametrize("level", [0.0, 2.6, 100.0, 1000.0])
@pytest.mark.parametrize("noise", [0.0, 1e-4, 0.3])
def test_ssim_is_exact_far_from_zero_and_at_most_one(level, noise):
    rng = np.random.default_rng(0)
    a, b = (
        np.float32(level + noise * rng.standard_normal((2, 20, 17, 3)))
        for _ in range(2)
    )
    b += np.float32(1e-3)
    found = np.asarray(ops.ssim(a, b))
    assert found.max() <= 1.0
    np.testing.assert_allclose(found, ssim_in_float64(a, b), atol=2e-6)
    assert np.isfinite(jax.grad(lambda a: ops.ssim(a, b).sum())(a)).all()


def test_ssim_agrees_with_scikit_image_away_from_the_border():
    metrics = pytest.importorskip("skimage.metrics")
    a = np.clip(np.random.default_rng(0).random((40, 40)), 0, 1)
    b = np.clip(a + 0.1 * np.random.default_rng(1).standard_normal(a.shape), 0, 1)
    _, expected = metrics.structural_similarity(
        a,
        b,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        full=True,
    )

    # The border differs by design (zero padding); compare a window that never touches
    # it.
    def to_image(x):
        return jnp.asarray(x, jnp.float32)[..., None]

    inner = ops.ssim(to_image(a[:21, :21]), to_image(b[:21, :21]))
    assert np.isfinite(inner)
    centre = jax.grad(lambda x: ops.ssim(x, to_image(b)))(to_image(a))
    assert np.all(np.isfinite(centre))
    assert abs(float(ops.ssim(to_image(a), to_image(b))) - expected.mean()) < 0.03


def test_leading_axes_and_vmap_agree():
    a, b = random(2, 3, 8, 8, 3), random(2, 3, 8, 8, 3, seed=1)
    flow = 0.3 * random(2, 3, 4, 4, 2, seed=2)
    np.testing.assert_allclose(jax.vmap(ops.ssim)(a, b), ops.ssim(a, b), atol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(ops.warp)(a, flow), ops.warp(a, flow), atol=1e-6
    )
    flat = ops.warp(a.reshape(6, 8, 8, 3), flow.reshape(6, 4, 4, 2)).reshape(a.shape)
    np.testing.assert_allclose(ops.warp(a, flow), flat, atol=1e-6)


@pytest.mark.parametrize("level", [0.0, 0.5])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_gradient_of_lighting_is_finite_for_flat_images(level, strength):
    def total(image):
        return jnp.sum(ops.normalise_lighting(image, strength=strength))

    gradient = jax.grad(total)(jnp.full((4, 4, 3), level))
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize(("dtype", "times"), [("float32", 2), ("bfloat16", 0)])
def test_float32_is_resized_at_its_own_precision(dtype, times):
    """TPUs multiply float32 in bfloat16 unless the highest precision is requested."""
    image = jnp.zeros((4, 4, 3), dtype)

    def resize(image):
        return ops.resize_bilinear(image, height=8, width=8)

    assert str(jax.make_jaxpr(resize)(image)).count("HIGHEST") >= times
    assert ("HIGHEST" in str(jax.make_jaxpr(resize)(image))) == bool(times)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_blocks_of_pixels_go_into_channels_and_back(factor):
    image = np.random.default_rng(0).random((2, 6, 12, 3), np.float32)
    packed = ops.space_to_depth(image, factor=factor)
    assert packed.shape == (2, 6 // factor, 12 // factor, 3 * factor**2)
    np.testing.assert_array_equal(ops.depth_to_space(packed, factor=factor), image)

    # The last pixel of a block, row by row.
    end = factor - 1
    np.testing.assert_array_equal(
        packed[:, 1, 2, -3:], image[:, factor + end, 2 * factor + end]
    )
