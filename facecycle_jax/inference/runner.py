"""Runs functions of images batch by batch.

Each batch is split over the devices of this process.
"""

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
from facecycle_jax.errors import UserError, shorten
from facecycle_jax.inference.arguments import check_whole_number
from facecycle_jax.jax_names import default_device, default_matmul_precision
from facecycle_jax.networks import Tree
from facecycle_jax.networks.face_networks import FaceNetworks

Outputs = dict[str, np.ndarray]
# Images computed at once by default.
BATCH_SIZE = 64


def check_batch(batch_size: int, devices: Sequence[jax.Device] | None) -> None:
    """Checks what images are computed with.

    Args:
      batch_size: images computed at once.
      devices: devices to split batches over, or None.

    Raises:
      UserError: If `batch_size` is not a whole number of at least 1, or `devices` no
        sequence of at least one device.
    """
    check_whole_number(batch_size, name="batch_size")
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}.")
    if devices is None:
        return

    is_sequence = isinstance(devices, Sequence) and not isinstance(devices, str)
    if not is_sequence or not all(isinstance(item, jax.Device) for item in devices):
        raise UserError(
            "devices must be a list of JAX's devices, such as jax.devices(), got "
            f"{shorten(devices)}."
        )
    if not devices:
        raise UserError("devices must name one at least.")


class Batches:
    """Parameters on devices, and the functions of images that run with them.

    Args:
      networks: the networks.
      trees: parameters by network name.
      batch_size: images computed at once, at most, on all devices together.
      devices: devices of one kind and of this process, to split batches over. None uses
        all of the default kind, or `jax_default_device` alone where that is set.

    Raises:
      UserError: See `check_batch`.
    """

    def __init__(
        self,
        networks: FaceNetworks,
        trees: Mapping[str, Tree],
        *,
        batch_size: int,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Puts the parameters on the first device.

        Other devices get them when a batch is large enough to need them.
        """
        check_batch(batch_size, devices)

        found = jax.device_get(dict(trees))
        if devices is None:
            # Committed to no device, so that `trees` works with arrays on any device.
            first = jax.device_put(found)
            self._devices = jax.local_devices()
            if default_device() is not None:
                # A new array lies on the default device, however that was named.
                self._devices = list(jnp.zeros(()).devices())
        else:
            first = jax.device_put(found, devices[0])
            self._devices = list(devices)

        self._networks = networks
        self._batch_size = batch_size
        # Parameters on each device in use, and joined for each number of devices.
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
        """Runs a function over images in batches of few sizes.

        Few sizes mean that a new number of images seldom compiles anew. Several threads
        may call this at once, and each program is compiled once.

        Args:
          function: function of (networks, trees, images, ...) that treats the items of
            the images' first axis separately. Everything it returns is copied to the
            host.
          *images: arrays with equal first axes.
          **options: hashable options of the function.

        Returns:
          What the function returns, by name, for all images.

        Raises:
          UserError: If there is no image.
        """
        count = len(images[0])
        if not count:
            raise UserError("There is no image to work on.")

        program = _program(function, self._networks, **options)
        whole: Outputs = {}

        # While one batch is copied to the host, the devices compute the next one. No
        # more than two are on the devices at any time.
        started: tuple[int, dict[str, jax.Array]] | None = None
        for start in range(0, count, self._batch_size):
            chunk = [x[start : start + self._batch_size] for x in images]
            trees, padded = self._arguments(chunk)
            outputs = program(trees, *padded)
            if started is not None:
                _store(whole, *started, count=count)
            started = start, outputs

        if started is not None:
            _store(whole, *started, count=count)
        return whole

    def lower(
        self, function: Callable[..., Any], *images: np.ndarray, **options: Any
    ) -> jax.stages.Lowered:
        """Lowers the program that `run` compiles for one batch.

        The lowered program tells its cost and its text.

        Args:
          function: as for `run`.
          *images: as for `run`, at least one and no more than `batch_size`.
          **options: as for `run`.

        Returns:
          The program before XLA's optimisation.

        Raises:
          UserError: If there is no image, or more than fit in a batch.
        """
        count = len(images[0])
        if not 1 <= count <= self._batch_size:
            raise UserError(
                f"one batch has 1 to {self._batch_size} images, got {count}."
            )
        trees, padded = self._arguments(list(images))
        program = _program(function, self._networks, **options)
        return program.jitted.lower(trees, *padded)

    def _arguments(self, chunk: list[np.ndarray]) -> tuple[dict[str, Tree], Any]:
        """Returns the parameters and a padded batch, on the devices it needs."""
        # The batch is filled with copies of its last image, up to a power of two or a
        # full batch.
        used = len(chunk[0])
        bucket = min(self._batch_size, 1 << (used - 1).bit_length())
        padded = chunk
        if bucket > used:
            padded = [
                np.concatenate([x, np.repeat(x[-1:], bucket - used, axis=0)])
                for x in chunk
            ]

        with self._placing:
            trees, split = self._place(devices_for(bucket, self._devices))
        return trees, jax.device_put(padded, split)

    def _place(self, count: int) -> tuple[dict[str, Tree], NamedSharding]:
        """Returns the parameters on `count` devices, and how images are split there."""
        if count not in self._placed:
            devices = self._devices[:count]

            # Devices that are used for the first time get a copy of the parameters.
            for device in devices[len(self._copies) :]:
                self._copies.append(jax.device_put(self._copies[0], device))

            # The copies become one replicated array a parameter, without another copy.
            mesh = make_mesh(devices)
            whole = replicated(mesh)

            def join(*copies: jax.Array) -> jax.Array:
                return jax.make_array_from_single_device_arrays(
                    copies[0].shape, whole, list(copies)
                )

            trees = jax.tree.map(join, *self._copies[:count])
            self._placed[count] = (trees, batch_sharding(mesh))

        return self._placed[count]


def _store(
    whole: Outputs, start: int, outputs: Mapping[str, jax.Array], *, count: int
) -> None:
    """Copies a batch's outputs to their place among those of all `count` images."""
    for name, value in outputs.items():
        if name not in whole:
            whole[name] = np.empty((count, *value.shape[1:]), value.dtype)

        # The padding's outputs are dropped.
        target = whole[name][start : start + len(value)]
        target[...] = np.asarray(value)[: len(target)]


def devices_for(images: int, devices: Sequence[jax.Device]) -> int:
    """Chooses how many devices a batch is split over.

    Args:
      images: number of images in the batch.
      devices: the available devices, of one kind.

    Returns:
      The largest number that divides the batch into parts of two images or more on
      CPUs, of one or more elsewhere; at least 1.
    """
    if devices[0].platform == "cpu":
        # CPU devices share threads: with one image each they are slower than one
        # device, as in training.
        return cpu_devices_for({"batch_size": images}, len(devices))

    return max(n for n in range(1, len(devices) + 1) if images % n == 0)


class _Program:
    """A compiled function of (trees, images, ...).

    One thread makes the first call of each kind. Otherwise threads that need a program
    at the same time would each compile it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.jitted = jax.jit(function)
        self._compiling = threading.Lock()
        self._compiled: set[Any] = set()

    def __call__(self, trees: Tree, *images: jax.Array) -> dict[str, jax.Array]:
        # Whatever makes JAX compile anew.
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
# two programs for one function.
_PROGRAMS = threading.Lock()


def _program(
    function: Callable[..., Any], networks: FaceNetworks, **options: Any
) -> _Program:
    """Returns the program of a function of (networks, trees, images, ...)."""
    with _PROGRAMS:
        return _cached_program(function, networks, **options)


@functools.lru_cache(maxsize=64)
def _cached_program(
    function: Callable[..., Any], networks: FaceNetworks, **options: Any
) -> _Program:
    return _Program(functools.partial(function, networks, **options))
