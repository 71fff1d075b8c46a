"""Neutral faces brought onto the mean face before the mean is taken.

Noses, mouths and outlines of people differ in place, so that the plain average of
neutral faces is blurred. Here each neutral face is first warped smoothly onto the
present mean face, and the mean face is drawn towards the results. As it sharpens, the
warps find more. Not in FaceCycle.

References:
  Joshi, Davis, Jomier and Gerig, "Unbiased diffeomorphic atlas construction for
  computational anatomy", NeuroImage 2004, for the alternation of warps and average.
"""

import jax
import jax.numpy as jnp
import optax

from facecycle_jax.losses import bending, l1
from facecycle_jax.ops import clipped_grid, grid_sample
from facecycle_jax.ops.smoothing import smooth_neighbours

# Pixels of the images that are compared.
_SIDE = 32
# Places along each side at which a warp is free; it is interpolated between them.
_PLACES = 8
# Updates of the warps, which start at none.
_STEPS = 20
# Adam's rate: the largest shift of a step, in units where 2 is the whole image.
_RATE = 0.015
# Weights of `losses.bending` and of the mean square of the shifts. The difference of
# images is in units of their local standard deviation.
_BENDING_WEIGHT = 0.33
_SHIFT_WEIGHT = 0.3


def align(images: jax.Array, template: jax.Array) -> jax.Array:
    """Warps images smoothly onto a template.

    Args:
      images: [N, H, W, 3], normalised.
      template: [1, H, W, 3], normalised.

    Returns:
      float32 [N, H, W, 3], without a gradient. The shifts at a place have a mean of 0
      over the images, so that an average keeps the mean shape of the faces. The images
      are those of the whole batch on all devices, or of a micro-batch with
      `optimiser.accumulate` above 1.
    """
    images, template = jax.lax.stop_gradient((images, template))
    images = images.astype(jnp.float32)

    details = _local_contrast(_small_grey(images))
    of_template = _local_contrast(_small_grey(template.astype(jnp.float32)))

    def difference(shifts: jax.Array) -> jax.Array:
        """Computes the sum over images of what is minimised; shifts [N, p, p, 2]."""
        unlike = l1(_moved(details, shifts), of_template)
        length = jnp.mean(jnp.square(shifts), axis=(1, 2, 3))

        penalty = _BENDING_WEIGHT * bending(shifts) + _SHIFT_WEIGHT * length
        return jnp.sum(unlike + penalty)

    optimiser = optax.adam(_RATE)

    def step(
        _: int, state: tuple[jax.Array, optax.OptState]
    ) -> tuple[jax.Array, optax.OptState]:
        shifts, moments = state
        updates, moments = optimiser.update(jax.grad(difference)(shifts), moments)
        return shifts + updates, moments

    start = jnp.zeros((len(images), _PLACES, _PLACES, 2))
    shifts, _ = jax.lax.fori_loop(0, _STEPS, step, (start, optimiser.init(start)))

    # The template is one of many that fit as well; keep to the mean shape.
    shifts = shifts - jnp.mean(shifts, axis=0)
    return _moved(images, shifts)


def _small_grey(images: jax.Array) -> jax.Array:
    """Makes grey images [N, S, S, 1]."""
    grey = jnp.mean(images, axis=-1, keepdims=True)
    return jax.image.resize(grey, (len(images), _SIDE, _SIDE, 1), "linear")


def _local_contrast(grey: jax.Array) -> jax.Array:
    """Subtracts the local mean of [N, S, S, 1], divides by the local std."""

    def blur(x: jax.Array) -> jax.Array:
        # Eight times the variance of one step, 1/2: a standard deviation of 2 pixels.
        for _ in range(8):
            x = smooth_neighbours(x, 0.25, mode="edge")
        return x

    centred = grey - blur(grey)
    # The constant keeps plain background from being all noise.
    return centred * jax.lax.rsqrt(blur(jnp.square(centred)) + 0.02)


def _moved(images: jax.Array, shifts: jax.Array) -> jax.Array:
    """Warps images [N, S, S, C] by shifts [N, p, p, 2], cut at the images' edges."""
    number, side = images.shape[:2]
    flow = jax.image.resize(shifts, (number, side, side, 2), "cubic")
    return grid_sample(images, clipped_grid(flow), align_corners=True)
