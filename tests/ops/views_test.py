"""Views of the compared methods: filters agree with references, crops stay inside."""

import jax
import jax.numpy as jnp
import numpy as np
import peers_reference as reference
import pytest

from facecycle_jax.ops import views

PLAIN = views.ColourOptions(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def images():
    return reference.numbers("pcl")["inputs/aug_u8"].astype(np.float32) / 255


def test_gradient_magnitude_agrees_with_reference():
    stored = reference.numbers("pcl")
    for image, expected, byte in zip(
        images(),
        stored["aug/gradient_magnitude"],
        stored["aug/gradient_magnitude_u8"],
        strict=True,
    ):
        found = views.gradient_magnitude(image)[..., 0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        wrapped = np.round(views.gradient_magnitude(image, wrapped=True)[..., 0] * 255)
        # Truncation: where a value is nearly whole, either side of it.
        unsure = np.abs(255 * expected - np.round(255 * expected)) < 1e-2
        np.testing.assert_array_equal(wrapped[~unsure], byte[~unsure])


def test_blur_agrees_with_reference():
    stored = reference.numbers("pcl")
    for place, sigma in enumerate(stored["aug/blur_sigma"]):
        kernel = views.blur_kernel(jnp.float32(sigma))
        np.testing.assert_allclose(
            kernel, stored["aug/blur_kernel"][place], rtol=1e-4, atol=1e-7
        )
        for row, image in enumerate(images()):
            found = np.asarray(
                views.gaussian_blur(jnp.asarray(image), jnp.float32(sigma))
            )
            byte = stored["aug/blur_u8"][place, row].astype(np.float32)
            # The program truncates to bytes.
            assert np.abs(255 * found - byte - 0.5).max() < 0.51


def test_crops_lie_in_their_region_and_share_a_side():
    # Brightness shows the place: x in the first channel, y in the second.
    ramp = np.arange(256, dtype=np.uint8)
    frame = np.stack(
        [
            np.tile(ramp, (256, 1)),
            np.tile(ramp[:, None], (1, 256)),
            np.zeros((256, 256), np.uint8),
        ],
        -1,
    )
    batch = {"frames": jnp.asarray(np.tile(frame, (3, 2, 1, 1, 1)))}
    crop = views.CropOptions(left=33, top=8, side=190, smallest=170, largest=189)
    sides = set()
    for seed in range(5):
        made = views.crop_frames(
            jax.random.key(seed), batch, size=256, crop=crop, normalised=False
        )
        made = np.asarray(made) * 255
        low, high = made[:, :, 0, 0, :2], made[:, :, -1, -1, :2]
        assert (low >= np.array([33, 8]) - 0.5).all()
        assert (high <= np.array([223, 198]) + 0.5).all()
        side = np.round((high - low) * 256 / 255).ravel()
        assert len(set(side)) == 1
        # Each frame has a place of its own.
        assert len({tuple(place) for place in np.round(low.reshape(-1, 2), 1)}) > 3
        sides.add(side[0])
    assert len(sides) > 1
    assert min(sides) >= 170
    assert max(sides) <= 189
    centre = (
        np.asarray(
            views.centre_crop_frames(batch, size=256, crop=crop, normalised=False)
        )
        * 255
    )
    np.testing.assert_allclose(centre[..., 127:129, 127:129, 0].mean(), 127.5, atol=1)


def test_distant_windows_do_not_overlap():
    corners = np.asarray(
        jax.vmap(views.distant_windows)(jax.random.split(jax.random.key(0), 200))
    )
    assert (corners >= 0).all()
    assert (corners + 0.4 <= 1).all()
    assert (np.abs(corners[:, 0] - corners[:, 1]).max(axis=1) >= 0.4 - 1e-6).all()


def test_mirrored_views_are_those_of_the_mirror_image():
    frames = jnp.asarray(reference.numbers("pcl")["inputs/recon_u8"])
    made = {
        mirrored: views.recoloured_views(
            jax.random.key(0),
            frames,
            size=64,
            count=2,
            colours=PLAIN,
            mirrored=mirrored,
        )
        for mirrored in (False, True)
    }
    np.testing.assert_allclose(made[True], jnp.flip(made[False], axis=3), atol=1e-6)
    np.testing.assert_allclose(made[False][:, 0], frames / 255.0, atol=1e-6)


def test_views_that_are_spread_over_a_batch_are_those_of_each_image():
    """In a batch of 6, 2 images of 4 views: the last 4 places repeat the first."""
    batch = jnp.asarray(reference.numbers("pcl")["inputs/recon_u8"])
    options = {"size": 32, "count": 4, "colours": views.ColourOptions()}
    key = jax.random.key(0)

    expected = jax.jit(
        lambda key, frames: views.recoloured_views(
            key, frames, mirrored=True, **options
        )
    )(key, batch[:2]).reshape(8, 32, 32, 3)
    spread = jax.jit(
        lambda key, batch: views.spread_views(key, batch[:2], batch, **options)
    )(key, batch)
    assert spread.shape == (6, 2, 32, 32, 3)
    found = spread.reshape(12, 32, 32, 3)
    np.testing.assert_allclose(found[:8], expected, atol=1e-6)
    np.testing.assert_allclose(found[8:], expected[:4], atol=1e-6)


@pytest.mark.parametrize("maker", ["distant", "cropped"])
def test_views_are_a_function_of_the_key_and_the_item(maker):
    frames = jnp.asarray(reference.numbers("pcl")["inputs/recon_u8"])
    colours = views.ColourOptions()

    @jax.jit
    def make(key, frames):
        if maker == "distant":
            return views.distant_views(key, frames, size=32, colours=colours)
        return views.cropped_views(
            key,
            frames,
            size=32,
            scale=(0.2, 1.0),
            mirror_probability=0.5,
            colours=colours,
        )

    whole = make(jax.random.key(0), frames)
    assert whole.shape == (6, 2, 32, 32, 3)
    assert bool(jnp.isfinite(whole).all())
    assert float(whole.min()) >= 0
    np.testing.assert_allclose(
        make(jax.random.key(0), frames)[:3], whole[:3], atol=1e-6
    )
    assert not np.allclose(whole[:, 0], whole[:, 1], atol=1e-2)
