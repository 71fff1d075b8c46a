"""Runs functions of pictures batch by batch, each batch split over the devices of this process."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from facecycle_jax.cpu_devices import cpu_devices_for
from facecycle_jax.errors import UserError
from facecycle_jax.mesh import batch_sharding, make_mesh, replicated
from facecycle_jax.methods.base import Tree
from facecycle_jax.methods.forward import Forward

Outputs = dict[str, np.ndarray]
# Pictures computed at once where nothing else is asked for.
BATCH_SIZE = 64


class Batches:
    """Parameters on devices, and functions of pictures run with them.

    Args:
      forward: the networks.
      trees: parameters by network name.
      batch_size: pictures computed at once, at most, on all devices together.
      devices: to split batches over, of one kind and of this process; None: all of the default kind, or
        `jax_default_device` alone where that is set.

    Raises:
      ValueError: if `batch_size` is below 1 or there is no device.
    """

    def __init__(
        self,
        forward: Forward,
        trees: Mapping[str, Tree],
        *,
        batch_size: int,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Puts the parameters on the first device; others get them when there are pictures enough."""
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}.")
        found = jax.device_get(dict(trees))
        if devices is None:
            # Bound to no device, so that `trees` goes along with arrays that are anywhere.
            first = jax.device_put(found)
            alone = jax.config.jax_default_device is not None  # type: ignore[attr-defined]
            self._devices = list(jnp.zeros(()).devices()) if alone else jax.local_devices()
        elif devices:
            first = jax.device_put(found, devices[0])
            self._devices = list(devices)
        else:
            raise UserError("devices must name one at least.")
        self._forward, self._batch_size = forward, batch_size
        self._copies = [first]
        self._placed: dict[int, tuple[dict[str, Tree], NamedSharding]] = {}

    @property
    def trees(self) -> dict[str, Tree]:
        """The parameters by network name, on the first device."""
        return dict(self._copies[0])

    def run(self, function: Callable[..., Any], *pictures: np.ndarray, **options: Any) -> Outputs:
        """Computes in batches of few sizes, so that a new number of pictures seldom compiles anew.

        Args:
          function: of (forward, trees, pictures, ...), item by item of the pictures' first axis.
          *pictures: arrays with equal first axes.
          **options: hashable options of the function.

        Returns:
          What the function returns, by name, of all pictures.

        Raises:
          ValueError: if there is no picture.
        """
        count = len(pictures[0])
        if not count:
            raise UserError("There is no picture to work on.")
        parts = []
        for start in range(0, count, self._batch_size):
            chunk = [x[start : start + self._batch_size] for x in pictures]
            used = len(chunk[0])
            bucket = min(self._batch_size, 1 << (used - 1).bit_length())
            padded = [np.concatenate([x, np.repeat(x[-1:], bucket - used, axis=0)]) for x in chunk]
            trees, split = self._place(devices_for(bucket, self._devices))
            outputs = _compiled(function, self._forward, **options)(trees, *jax.device_put(padded, split))
            parts.append({name: np.asarray(value)[:used] for name, value in outputs.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _place(self, count: int) -> tuple[dict[str, Tree], NamedSharding]:
        """Returns the parameters on that many devices, and how pictures are split over them."""
        if count not in self._placed:
            devices = self._devices[:count]
            for device in devices[len(self._copies) :]:
                self._copies.append(jax.device_put(self._copies[0], device))
            mesh = make_mesh(devices)
            whole = replicated(mesh)

            def join(*copies: jax.Array) -> jax.Array:
                return jax.make_array_from_single_device_arrays(copies[0].shape, whole, list(copies))

            trees = jax.tree.map(join, *self._copies[:count])
            self._placed[count] = trees, batch_sharding(mesh)
        return self._placed[count]


def devices_for(pictures: int, devices: Sequence[jax.Device]) -> int:
    """Chooses how many devices a batch is split over.

    Args:
      pictures: in the batch.
      devices: that there are, of one kind.

    Returns:
      The largest number that divides the batch into parts of two pictures or more on CPUs, of one or more
      elsewhere; at least 1.
    """
    if devices[0].platform == "cpu":
        # They share threads: with one picture each they are slower than one device, as in training.
        return cpu_devices_for({"batch_size": pictures}, len(devices))
    return max(n for n in range(1, len(devices) + 1) if pictures % n == 0)


@functools.lru_cache(maxsize=64)
def _compiled(
    function: Callable[..., Any], forward: Forward, **options: Any
) -> Callable[..., dict[str, jax.Array]]:
    """Compiles a function of (forward, trees, pictures, ...) once for each model and its options."""
    return jax.jit(functools.partial(function, forward, **options))
