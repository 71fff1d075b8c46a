"""Depth to space and back. Layout [..., H, W, C], any value range."""

import jax


def pixel_shuffle(x: jax.Array, *, factor: int) -> jax.Array:
    """Moves blocks of channels into space.

    Channel c * factor^2 + dy * factor + dx goes to pixel (dy, dx) of channel c.
    TensorFlow's depth_to_space has the channel as the fastest axis instead; weights of
    PyTorch models need this order.

    Args:
      x: [..., H, W, C * factor**2].
      factor: enlargement of height and width, at least 1.

    Returns:
      [..., H * factor, W * factor, C].

    Raises:
      ValueError: if the channels cannot be split by factor squared.
    """
    *lead, height, width, channels = x.shape
    if factor < 1 or channels % factor**2:
        raise ValueError(
            "pixel_shuffle needs channels divisible by factor squared, "
            f"got {channels} and {factor}."
        )

    # Now [..., H, W, C, dy, dx].
    x = x.reshape(*lead, height, width, channels // factor**2, factor, factor)

    # Now [..., H, dy, W, dx, C].
    n = len(lead)
    x = x.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return x.reshape(*lead, height * factor, width * factor, channels // factor**2)


def space_to_depth(x: jax.Array, *, factor: int) -> jax.Array:
    """Moves blocks of pixels into channels, in TensorFlow's order.

    Channel c of pixel (dy, dx) of a block goes to channel (dy * factor + dx) * C + c.

    Args:
      x: [..., H * factor, W * factor, C].
      factor: reduction of height and width, at least 1.

    Returns:
      [..., H, W, C * factor**2].
    """
    *lead, height, width, channels = x.shape
    rows = height // factor
    columns = width // factor

    # [..., H, dy, W, dx, C] to [..., H, W, dy, dx, C].
    x = x.reshape(*lead, rows, factor, columns, factor, channels)
    x = x.swapaxes(-4, -3)
    return x.reshape(*lead, rows, columns, factor**2 * channels)


def depth_to_space(x: jax.Array, *, factor: int) -> jax.Array:
    """Undoes `space_to_depth`.

    Args:
      x: [..., H, W, C * factor**2].
      factor: enlargement of height and width, at least 1.

    Returns:
      [..., H * factor, W * factor, C].
    """
    *lead, height, width, channels = x.shape
    depth = channels // factor**2

    # [..., H, W, dy, dx, C] to [..., H, dy, W, dx, C].
    x = x.reshape(*lead, height, width, factor, factor, depth)
    x = x.swapaxes(-4, -3)
    return x.reshape(*lead, height * factor, width * factor, depth)
