"""Neutral faces brought onto the mean face."""

import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.data.sources.synthetic import synthetic_tracks
from facecycle_jax.methods.mean_alignment import align
from facecycle_jax.ops import normalise, warp


def face() -> jax.Array:
    """Returns a frontal synthetic face, [1, 64, 64, 3]."""
    tracks = synthetic_tracks(3, identities=1, frames_per_track=1, size=64)
    return normalise(jnp.asarray(tracks["neutral"]))


def bent(image: jax.Array) -> jax.Array:
    """Returns four copies, [4, 64, 64, 3], bent by smooth flows whose mean is 0."""
    flow = 0.06 * jax.random.normal(jax.random.key(0), (2, 4, 4, 2))
    flow = jax.image.resize(flow, (2, 64, 64, 2), "cubic")
    flows = jnp.concatenate([flow, -flow])
    return warp(jnp.repeat(image, len(flows), axis=0), flows)


def middle_error(images: jax.Array, image: jax.Array) -> float:
    """Returns the mean absolute difference of the parts with the face."""
    return float(jnp.mean(jnp.abs(images - image)[:, 12:52, 12:52]))


def test_bent_faces_return_to_the_face_that_was_bent():
    template = face()
    images = bent(template)
    aligned = jax.jit(align)(images, template)

    assert aligned.shape == images.shape
    assert middle_error(aligned, template) < 0.5 * middle_error(images, template)


def test_the_mean_of_aligned_faces_is_sharper():
    template = face()
    images = bent(template)
    aligned = jnp.mean(align(images, template), axis=0)
    plain = jnp.mean(images, axis=0)

    assert middle_error(aligned[None], template) < middle_error(plain[None], template)


def test_what_all_faces_share_is_no_reason_to_move():
    template = face()
    # All are one and the same face, to the side of the template.
    images = jnp.repeat(jnp.roll(template, 3, axis=2), 4, axis=0)
    np.testing.assert_allclose(align(images, template), images, atol=1e-5)


def test_one_image_does_not_move_another():
    template = face()
    images = bent(template)
    # The order of images is the order of the results.
    flipped = align(images[::-1], template)[::-1]
    np.testing.assert_allclose(flipped, align(images, template), atol=1e-4)


def test_no_gradient_passes():
    template = face()
    images = bent(template)

    def total(images: jax.Array, template: jax.Array) -> jax.Array:
        return jnp.sum(align(images, template))

    for gradient in jax.jit(jax.grad(total, argnums=(0, 1)))(images, template):
        np.testing.assert_array_equal(gradient, 0)


def test_plain_images_stay():
    plain = jnp.full((2, 64, 64, 3), 0.3)
    template = jnp.zeros((1, 64, 64, 3))
    np.testing.assert_allclose(align(plain, template), plain, atol=1e-6)
