"""Augmentation stays within its ranges and is a function of the item's key."""

import functools

import jax
import numpy as np
import pytest

from facecycle_jax.ops import augment_pairs, denormalise, plain_pairs

STILL = {
    "scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
    "jitter_probability": 0.0,
    "mirror_probability": 0.0,
}


def batch_of(items=6, size=24, *, same=True, mirror=False, seed=0):
    rng = np.random.default_rng(seed)
    # Smooth images, so that resampling them changes little.
    coarse = rng.integers(40, 215, (items, 2, 4, 4, 3)).astype(np.float32)
    frames = np.asarray(
        jax.image.resize(coarse, (items, 2, size, size, 3), "cubic")
    ).clip(0, 255)
    identity = np.stack(
        [np.arange(items), np.arange(items) + (0 if same else 1)], axis=1
    )
    return {
        "frames": frames.astype(np.uint8),
        "mirror": np.full(items, mirror),
        "identity": identity.astype(np.int32),
    }


def augment(batch, *, key=0, size=24, **options):
    images = jax.jit(functools.partial(augment_pairs, size=size, **options))(
        jax.random.key(key), batch
    )
    return np.asarray(denormalise(images)).astype(int)


def test_nothing_changes_without_random_options():
    batch = batch_of()
    np.testing.assert_array_equal(augment(batch, **STILL), batch["frames"])
    plain = np.asarray(
        denormalise(jax.jit(functools.partial(plain_pairs, size=24))(batch))
    )
    np.testing.assert_array_equal(plain, batch["frames"])


def test_certain_mirroring_mirrors():
    batch = batch_of()
    mirrored = augment(batch, **{**STILL, "mirror_probability": 1.0})
    np.testing.assert_array_equal(mirrored, batch["frames"][..., ::-1, :])


def test_every_image_is_warped_by_a_field_of_its_own():
    batch = batch_of()
    batch["mirror"][:] = True
    drawn = augment(batch, **STILL, warp=0.05)
    frames = batch["frames"].astype(int)
    moved = np.abs(drawn[:, 0] - frames[:, 0]).mean((1, 2, 3))
    assert (
        moved > 0.5
    ).mean() > 0.7  # strengths are drawn too, and may be next to nothing
    assert len(set(moved.round(6))) == len(moved)
    # A mirror image is not the mirror image of the warped first image, but near it.
    unlike = np.abs(drawn[:, 1] - drawn[:, 0, :, ::-1]).mean((1, 2, 3))
    assert (unlike > 0.5).mean() > 0.7
    assert unlike.mean() < np.abs(frames[:, 0] - frames[::-1, 0]).mean()


def test_a_warp_moves_as_far_as_it_says():
    """A slope of known steepness shows the displacement of every pixel."""
    size, strength = 64, 0.05
    slope = np.linspace(0, 252, size).astype(np.uint8)
    frames = np.broadcast_to(slope[:, None], (200, 2, size, size, 3))
    batch = {
        "frames": frames,
        "mirror": np.zeros(200, bool),
        "identity": np.zeros((200, 2), np.int32),
    }
    drawn = augment(batch, size=size, **STILL, warp=strength)
    inside = (slice(None), slice(None), slice(16, 48), slice(16, 48))
    moved = (drawn - frames)[inside] / 4 / size  # four values a pixel
    deviation = moved.std(axis=(2, 3, 4))
    assert (
        0.2 * strength < deviation.mean() < 0.6 * strength
    )  # half of the largest, less what is smoothed
    assert abs(moved.mean()) < 0.1 * strength
    assert deviation.max() < 1.5 * strength


def test_the_second_of_a_pair_is_the_first_mirrored_where_the_batch_says_so():
    batch = batch_of()
    batch["mirror"][::2] = True
    drawn = augment(batch, **STILL)
    np.testing.assert_array_equal(drawn[::2, 1], drawn[::2, 0, :, ::-1])
    np.testing.assert_array_equal(drawn[1::2], batch["frames"][1::2])
    # It mirrors the augmented first image, whatever happened to that.
    drawn = augment(batch)
    np.testing.assert_array_equal(drawn[::2, 1], drawn[::2, 0, :, ::-1])
    assert (drawn[1::2, 1] != drawn[1::2, 0, :, ::-1]).any()


def test_two_people_are_never_replaced_by_one_mirrored():
    batch = batch_of(same=False, mirror=True)
    drawn = augment(batch, **STILL)
    np.testing.assert_array_equal(drawn, batch["frames"])


def test_evaluation_mirrors_where_the_batch_says_so():
    batch = batch_of(mirror=True)
    plain = np.asarray(denormalise(plain_pairs(batch, size=24)))
    np.testing.assert_array_equal(plain[:, 1], batch["frames"][:, 0, :, ::-1])


def test_items_and_keys_differ():
    batch = batch_of()
    batch["frames"][:] = batch["frames"][:1, :1]
    drawn = augment(batch)
    flat = {image.tobytes() for pair in drawn for image in pair}
    assert len(flat) > 6
    np.testing.assert_array_equal(drawn, augment(batch))
    assert (drawn != augment(batch, key=1)).any()


def test_the_default_changes_are_small():
    batch = batch_of(40)
    drawn = augment(batch, mirror_probability=0.0)
    change = np.abs(drawn - batch["frames"]).mean(axis=(1, 2, 3, 4))
    assert 0.5 < change.mean() < 12


@pytest.mark.parametrize(
    ("name", "expected"),
    [("brightness", 0.3), ("contrast", 0.3), ("saturation", 0.3), ("hue", 0.2)],
)
def test_colours_change_in_their_own_way(name, expected):
    batch = batch_of(60)
    none = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    drawn = augment(
        batch, **{**STILL, **none, "jitter_probability": 1.0, name: expected}
    )
    frames = batch["frames"].astype(float)
    grey = np.array([0.299, 0.587, 0.114])
    before, after = frames @ grey, drawn @ grey
    if name == "brightness":
        factor = after.mean((2, 3)) / before.mean((2, 3))
        assert 0.7 - 0.02 < factor.min() < 0.85
        assert 1.1 < factor.max() < 1.32
    elif name == "contrast":
        np.testing.assert_allclose(after.mean((2, 3)), before.mean((2, 3)), atol=2.5)
        factor = after.std((2, 3)) / before.std((2, 3))
        assert 0.68 < factor.min() < 0.85
        assert 1.1 < factor.max() < 1.32
    else:
        # Brightness of every pixel stays.
        np.testing.assert_allclose(np.median(np.abs(after - before)), 0.0, atol=1.0)

        # All colours of an image are multiplied by one number on the plane of I and Q:
        # saturation changes its length, hue its angle. Clipped pixels are left out.
        plane = np.array([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
        inside = ((drawn > 0) & (drawn < 255)).all(-1)
        old = (frames @ plane.T) @ [1, 1j] * inside
        new = (drawn @ plane.T) @ [1, 1j] * inside
        factor = (new * old.conj()).sum((2, 3)) / (np.abs(old) ** 2).sum((2, 3))
        assert np.abs(new - factor[:, :, None, None] * old).max() < 1.5

        length = np.abs(factor)
        turns = np.angle(factor) / (2 * np.pi)
        if name == "saturation":
            assert 0.7 - 0.02 < length.min() < 0.85
            assert 1.15 < length.max() < 1.3 + 0.02
            assert np.abs(turns).max() < 0.001
        else:
            np.testing.assert_allclose(length, 1.0, atol=0.01)
            assert -0.2 - 0.002 < turns.min() < -0.15
            assert 0.15 < turns.max() < 0.2 + 0.002


def test_no_matrix_is_inverted_on_the_device():
    """A GPU would leave its own kernels for a library's in every step."""
    program = functools.partial(augment_pairs, size=24)
    jaxpr = str(jax.make_jaxpr(program)(jax.random.key(0), batch_of()))
    assert "triangular_solve" not in jaxpr


def test_crops_stay_inside_and_keep_their_place():
    ramp = np.broadcast_to(np.linspace(20, 235, 48)[None, :, None], (48, 48, 3)).astype(
        np.uint8
    )
    batch = batch_of(50, 48)
    batch["frames"][:] = ramp
    drawn = augment(batch, **{**STILL, "scale": (0.5, 0.5), "size": 48})[..., 24, :, 0]
    slope = drawn[..., -1] - drawn[..., 0]
    # Half the area is 0.71 of the side.
    np.testing.assert_allclose(slope / 215, np.sqrt(0.5), atol=0.04)
    assert drawn.min() >= 20
    assert drawn.max() <= 235
    assert drawn[..., 0].max() - drawn[..., 0].min() > 30


def test_the_result_may_be_smaller_than_the_frames():
    assert augment(batch_of(2, 72), size=64).shape == (2, 2, 64, 64, 3)
    assert np.asarray(plain_pairs(batch_of(2, 72), size=64)).shape == (2, 2, 64, 64, 3)


def test_a_light_from_the_side_darkens_one_side_of_half_of_the_images():
    batch = batch_of(items=32)
    batch["frames"][:] = 128
    lit = augment(batch, **STILL, side_light=85.0)[..., 0].reshape(64, 24, 24)

    # An image whose light comes from the camera stays as it is.
    changed = np.any(lit != 128, axis=(1, 2))
    assert 0.3 < changed.mean() < 0.7

    # The middle gets less light than from the front; one side gets less than it.
    lit = lit[changed]
    middle = lit[:, 11:13, 11:13].mean(axis=(1, 2))
    assert (middle <= 128).all()
    assert (lit.min(axis=(1, 2)) < middle).all()

    # All directions occur.
    right_minus_left = lit[:, :, 12:].mean(axis=(1, 2)) - lit[:, :, :12].mean((1, 2))
    assert right_minus_left.min() < -10
    assert right_minus_left.max() > 10


def test_a_light_from_the_side_leaves_all_other_changes_as_they_were():
    batch = batch_of()
    unlit = augment(batch)
    lit = augment(batch, side_light=1e-3)
    np.testing.assert_allclose(lit, unlit, atol=1)


def test_two_views_of_an_image_are_drawn_apart():
    batch = batch_of(mirror=True)
    batch["frames"][:, 1] = batch["frames"][:, 0]
    seen = augment(batch, two_views=True)
    apart = np.abs(seen[:, 0] - seen[:, 1])
    assert (apart.mean(axis=(1, 2, 3)) > 0.5).all()
    # The first images are those of a mirrored pair, whose second ones mirror them.
    mirrored = augment(batch)
    np.testing.assert_array_equal(seen[:, 0], mirrored[:, 0])
    np.testing.assert_array_equal(mirrored[:, 1], mirrored[:, 0, :, ::-1])
