"""Programs as StableHLO, by `jax.export`, for any number of images."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.export
import jax.numpy as jnp

Program = Callable[..., Mapping[str, jax.Array]]
PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(
    program: Program,
    *,
    size: int,
    arguments: int = 1,
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """Exports a program of images.

    Args:
      program: function of images uint8 [N, S, S, 3], traceable, to arrays [N, ...] by
        name. Weights that it holds become part of the program.
      size: side S of the images, in pixels.
      arguments: how many arrays of images the function takes.
      platforms: what the program is to run on.

    Returns:
      The program; `jax.export.deserialize(data).call(images)` runs it for every N above
      0.
    """
    # One dimension without a value. All others follow from it.
    shape = jax.export.symbolic_shape(f"n, {size}, {size}, 3")
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)

    export = jax.export.export(jax.jit(program), platforms=tuple(platforms))
    return bytes(export(*[images] * arguments).serialize())


def run_stablehlo(data: bytes, *images: jax.typing.ArrayLike) -> dict[str, jax.Array]:
    """Runs an exported program.

    Args:
      data: what `to_stablehlo` returned.
      *images: uint8 [N, S, S, 3], for each argument of the program.

    Returns:
      Arrays [N, ...] by name.
    """
    return dict(jax.export.deserialize(bytearray(data)).call(*images))
