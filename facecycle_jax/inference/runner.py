"""Runs functions of images batch by batch, each batch split over the devices of this process."""

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from facecycle_jax.devices.cpu import cpu_devices_for
from facecycle_jax.devices.mesh import batch_sharding, make_mesh, replicated
from facecycle_jax.errors import UserError
from facecycle_jax.jax_names import default_device, default_matmul_precision
from facecycle_jax.networks import Tree
from facecycle_jax.networks.face_networks import FaceNetworks

Outputs = dict[str, np.ndarray]
# Images computed at once by default.
BATCH_SIZE = 64


class Batches:
    """Parameters on devices, and functions of images run with them.

    Args:
      forward: the networks.
      trees: parameters by network name.
      batch_size: pictures computed at once, at most, on all devices together.
      devices: to split batches over, of one kind and of this process; None: all of the
        default kind, or `jax_default_device` alone where that is set.

    Raises:
      ValueError: if `batch_size` is below 1 or there is no device.
    """

    def __init__(
        self,
        forward: FaceNetworks,
        trees: Mapping[str, Tree],
        *,
        batch_size: int,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Puts the parameters on the first device.

        Others get them when there are images enough.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}.")
        found = jax.device_get(dict(trees))

        if devices is None:
            # Bound to no device, so that `trees` goes along with arrays that are
            # anywhere.
            first = jax.device_put(found)
            alone = default_device() is not None
            self._devices = (
                list(jnp.zeros(()).devices()) if alone else jax.local_devices()
            )
        elif devices:
            first = jax.device_put(found, devices[0])
            self._devices = list(devices)
        else:
            raise UserError("devices must name one at least.")

        self._forward = forward
        self._batch_size = batch_size
        self._copies = [first]
        self._placed: dict[int, tuple[dict[str, Tree], NamedSharding]] = {}
        self._placing = threading.Lock()

    @property
    def trees(self) -> dict[str, Tree]:
        """The parameters by network name, on the first device."""
        return dict(self._copies[0])

    def run(
        self, function: Callable[..., Any], *images: np.ndarray, **options: Any
    ) -> Outputs:
        """Computes in batches of few sizes, so that a new number of images seldom compiles anew.

        Several threads may call it at once: each program is compiled once.

        Args:
          function: of (forward, trees, images, ...), item by item of the images' first
            axis. All that it returns is copied to the host.
          *images: arrays with equal first axes.
          **options: hashable options of the function.

        Returns:
          What the function returns, by name, of all images.

        Raises:
          ValueError: If there is no image.
        """
        count = len(images[0])
        if not count:
            raise UserError("There is no image to work on.")
        program = _program(function, self._forward, **options)

        parts = []
        for start in range(0, count, self._batch_size):
            chunk = [x[start : start + self._batch_size] for x in images]
            used = len(chunk[0])
            trees, padded = self._arguments(chunk)
            outputs = program(trees, *padded)
            parts.append(
                {name: np.asarray(value)[:used] for name, value in outputs.items()}
            )
        return {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }

    def lower(
        self, function: Callable[..., Any], *images: np.ndarray, **options: Any
    ) -> jax.stages.Lowered:
        """Lowers the program that `run` compiles for one batch, for its cost or its text.

        Args:
          function: as of `run`.
          *images: as of `run`, no more than `batch_size`.
          **options: as of `run`.

        Returns:
          The program before XLA's optimisation.
        """
        trees, padded = self._arguments(list(images))
        return _program(function, self._forward, **options).jitted.lower(trees, *padded)

    def _arguments(self, chunk: list[np.ndarray]) -> tuple[dict[str, Tree], Any]:
        """Returns the parameters, and a batch filled up to a power of two, both on the devices it needs."""
        used = len(chunk[0])
        bucket = min(self._batch_size, 1 << (used - 1).bit_length())
        padded = [
            np.concatenate([x, np.repeat(x[-1:], bucket - used, axis=0)]) for x in chunk
        ]

        with self._placing:
            trees, split = self._place(devices_for(bucket, self._devices))
        return trees, jax.device_put(padded, split)

    def _place(self, count: int) -> tuple[dict[str, Tree], NamedSharding]:
        """Returns the parameters on that many devices, and how images are split over them."""
        if count not in self._placed:
            devices = self._devices[:count]
            for device in devices[len(self._copies) :]:
                self._copies.append(jax.device_put(self._copies[0], device))
            mesh = make_mesh(devices)
            whole = replicated(mesh)

            def join(*copies: jax.Array) -> jax.Array:
                return jax.make_array_from_single_device_arrays(
                    copies[0].shape, whole, list(copies)
                )

            trees = jax.tree.map(join, *self._copies[:count])
            self._placed[count] = trees, batch_sharding(mesh)
        return self._placed[count]


def devices_for(pictures: int, devices: Sequence[jax.Device]) -> int:
    """Chooses how many devices a batch is split over.

    Args:
      pictures: in the batch.
      devices: that there are, of one kind.

    Returns:
      The largest number that divides the batch into parts of two images or more on
      CPUs, of one or more elsewhere; at least 1.
    """
    if devices[0].platform == "cpu":
        # They share threads: with one image each they are slower than one device, as in
        # training.
        return cpu_devices_for({"batch_size": pictures}, len(devices))
    return max(n for n in range(1, len(devices) + 1) if pictures % n == 0)


class _Program:
    """A compiled function of (trees, images, ...).

    Its first call of each kind is made by one thread.

    Without that, threads that ask for a program at the same time would each compile it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.jitted = jax.jit(function)
        self._compiling = threading.Lock()
        self._compiled: set[Any] = set()

    def __call__(self, trees: Tree, *images: jax.Array) -> dict[str, jax.Array]:
        kind = (
            default_matmul_precision(),
            *((x.shape, x.dtype, x.sharding) for x in images),
        )
        if kind in self._compiled:
            return self.jitted(trees, *images)

        with self._compiling:
            outputs = self.jitted(trees, *images)
            self._compiled.add(kind)
        return outputs


# Models of one configuration share what is compiled. The lock keeps threads from making
# two programs of one.
_PROGRAMS = threading.Lock()


def _program(
    function: Callable[..., Any], forward: FaceNetworks, **options: Any
) -> _Program:
    """Returns the program of a function of (forward, trees, images, ...) for a model and options."""
    with _PROGRAMS:
        return _cached_program(function, forward, **options)


@functools.lru_cache(maxsize=64)
def _cached_program(
    function: Callable[..., Any], forward: FaceNetworks, **options: Any
) -> _Program:
    return _Program(functools.partial(function, forward, **options))
