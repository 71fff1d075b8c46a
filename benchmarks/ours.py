"""Our side of the comparison: train step, inference and sampling, ready to call.

The train step is the training loop's own.
"""

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from facecycle_jax import methods, ops, training
from facecycle_jax.devices import cpu_compiler_options, cpu_devices_for, make_mesh
from facecycle_jax.errors import UserError
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.networks import random_vgg
from facecycle_jax.networks.face_networks import FaceNetworks, make_face_networks
from facecycle_jax.training.state import TrainState, init_state

# What a precision means to us: (computation dtype, precision of float32 products).
PRECISIONS = {
    "float32": ("float32", "highest"),
    "tf32": ("float32", "tensorfloat32"),
    "bfloat16": ("bfloat16", "default"),
}
# Methods of `FaceCycle` that are timed.
CALLS = ("neutral", "reconstruct", "flow", "motion_code")
# Learning rate and decays of both stages, as everywhere in the paper's schedule in
# size.
ADAM = {"motion_cycle": (5e-5, 0.5, 0.999), "identity_cycle": (1e-4, 0.5, 0.9)}


class Setting(NamedTuple):
    """What is measured.

    Attributes:
      batch: pairs of images.
      width: multiplier on all channels, the VGG-19's included.
      precision: one of `PRECISIONS`.
      device: 'cpu', 'gpu' or 'tpu'.
      size: side of the images in pixels: 64, 128 or 256.
      remat: whether the backward pass computes the networks' activations again instead
        of keeping them.
    """

    batch: int
    width: float
    precision: str
    device: str
    size: int = 64
    remat: bool = False


def device_of(kind: str) -> jax.Device:
    """Finds the first device of a kind.

    Args:
      kind: 'cpu', 'gpu' or 'tpu'.

    Returns:
      The device.

    Raises:
      ValueError: if this machine or this build of JAX has none.
    """
    try:
        return jax.devices(kind)[0]
    except RuntimeError:
        raise UserError(f"JAX finds no {kind} here; choose another --device.") from None


def devices_of(setting: Setting) -> list[jax.Device]:
    """Returns the devices of a train step.

    It is one device, except on a CPU, which is split as training splits it.
    """
    if setting.device != "cpu":
        return [device_of(setting.device)]
    devices = jax.devices("cpu")
    return devices[: cpu_devices_for({"batch_size": setting.batch}, len(devices))]


def random_images(batch: int, *, size: int = 64, seed: int = 0) -> np.ndarray:
    """Draws smooth normalised images [batch, 2, size, size, 3].

    Their content does not influence the time.
    """
    coarse = np.random.default_rng(seed).random((batch, 2, 8, 8, 3)).astype(np.float32)
    with jax.default_device(jax.devices("cpu")[0]):
        return np.asarray(
            ops.normalise(
                ops.resize_bilinear(jnp.asarray(coarse), height=size, width=size)
            )
        )


def model_of(setting: Setting) -> dict[str, Any]:
    """Returns the model configuration of a setting."""
    return {
        "width": setting.width,
        "image_size": setting.size,
        "code_dim": 256,
        "dtype": PRECISIONS[setting.precision][0],
        "trunk": "vgg",
        "vgg_width": setting.width,
    }


def forward_of(setting: Setting) -> FaceNetworks:
    """Builds the networks of a setting."""
    return make_face_networks(
        model_of(setting), vgg_width=setting.width, remat=setting.remat
    )


def initial_trees(
    stage: str, setting: Setting
) -> tuple[methods.Method, dict[str, Any]]:
    """Builds a stage's method and draws its parameters, VGG-19 included, in numpy."""
    with jax.default_device(jax.devices("cpu")[0]):
        vgg = random_vgg(width=setting.width)
        make = methods.METHODS[stage]
        method = make(forward_of(setting), vgg, methods.LossOptions())
        # Compiling what draws the parameters takes far longer than drawing them.
        quick = cpu_compiler_options("cpu", level=0)
        init = jax.jit(method.init, compiler_options=quick)
        params, frozen = init(jax.random.key(0))
        return method, jax.tree.map(np.asarray, {**frozen, **params})


class TrainStep:
    """The training loop's step on images that lie on the device.

    One call is one finished update.

    Attributes:
      trees: the parameters at the start, by network name.
      ahead_s: seconds that compiling the step took if it was compiled before; 0 if the
        first call compiles it.
    """

    def __init__(self, stage: str, setting: Setting) -> None:
        """Draws the state; the first call compiles if `compile_step` has not yet.

        Args:
          stage: 'motion_cycle' or 'identity_cycle'.
          setting: what is measured.
        """
        self._stage = stage
        self._setting = setting
        mesh = make_mesh(devices_of(setting))
        self._precision = PRECISIONS[setting.precision][1]
        before = _COMPILED.get((stage, setting))
        self.ahead_s = before.seconds if before else 0.0

        method, self.trees = initial_trees(stage, setting)
        _, init = build_step(stage, method, mesh)
        self._state = init(jax.random.key(0))
        batch = {"images": random_images(setting.batch, size=setting.size)}
        self._batch = training.put_batch(batch, mesh)
        self._loss = jax.jit(method.loss)

    def __call__(self) -> None:
        """Makes one update."""
        self._state, averages = self.compiled()(self._state, self._batch)
        jax.block_until_ready((self._state, averages))

    def total(self) -> float:
        """Computes the loss without noise before any update, to compare both sides."""
        with jax.default_matmul_precision(self._precision):
            state = self._state
            return float(
                self._loss(state.params, state.frozen, self._batch["images"], None)[0]
            )

    def compiled(self) -> jax.stages.Compiled:
        """Returns the compiled step, with its costs, memory and program."""
        return compile_step(self._stage, self._setting).program


class CompiledStep(NamedTuple):
    """A compiled train step.

    Attributes:
      program: the step, of a state and a batch.
      seconds: that tracing and compiling it took, next to whatever else ran then.
    """

    program: jax.stages.Compiled
    seconds: float


# Programs alone are kept: a state for every setting would fill the memory of a GPU.
_COMPILED: dict[tuple[str, Setting], CompiledStep] = {}
_COMPILING: dict[tuple[str, Setting], threading.Lock] = {}


def compile_step(stage: str, setting: Setting) -> CompiledStep:
    """Compiles a train step for its devices, once in a process.

    Safe in threads, which compile different steps at the same time.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      setting: what is compiled.

    Returns:
      The compiled step.
    """
    key = (stage, setting)
    # `setdefault` is atomic: two threads get the same lock.
    with _COMPILING.setdefault(key, threading.Lock()):
        if key not in _COMPILED:
            start = time.perf_counter()
            mesh = make_mesh(devices_of(setting))
            program = lower_step(stage, setting, mesh).compile()
            _COMPILED[key] = CompiledStep(program, time.perf_counter() - start)
        return _COMPILED[key]


def build_step(
    stage: str, method: methods.Method, mesh: jax.sharding.Mesh, *, fsdp: bool = False
) -> tuple[Any, Callable[[jax.Array], TrainState]]:
    """Builds the training loop's step on images that need no augmentation.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      method: its method.
      mesh: where it runs.
      fsdp: whether to shard parameters and optimiser state.

    Returns:
      The jitted step, and the jitted `init(key)` of its state.
    """
    rate, b1, b2 = ADAM[stage]
    optimiser = optax.adam(rate, b1=b1, b2=b2)
    init = functools.partial(init_state, method=method, optimiser=optimiser)
    shardings = training.state_shardings(
        mesh, jax.eval_shape(init, jax.random.key(0)), fsdp=fsdp
    )
    step = training.make_train_step(
        method,
        optimiser,
        augment=lambda key, batch: batch["images"],
        options=training.StepOptions(),
        mesh=mesh,
        shardings=shardings,
    )
    quick = cpu_compiler_options(mesh.devices.flat[0].platform, level=0)
    draw = jax.jit(init, out_shardings=shardings, compiler_options=quick)
    return step, draw


def lower_step(
    stage: str, setting: Setting, mesh: jax.sharding.Mesh
) -> jax.stages.Lowered:
    """Lowers the training loop's step for a mesh, real or abstract, without arrays.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      setting: what is lowered; its device is not looked at.
      mesh: where it is to run.

    Returns:
      The lowered step; its cost analysis is of the program as written.
    """
    # Only its shapes matter: its values are arguments of the step.
    shapes = jax.eval_shape(lambda: random_vgg(width=setting.width))
    vgg = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    method = methods.METHODS[stage](forward_of(setting), vgg, methods.LossOptions())
    step, init = build_step(stage, method, mesh)
    state = jax.eval_shape(init, jax.random.key(0))
    shape = (setting.batch, 2, setting.size, setting.size, 3)
    batch = {"images": jax.ShapeDtypeStruct(shape, jnp.float32)}
    with jax.default_matmul_precision(PRECISIONS[setting.precision][1]):
        return step.lower(state, batch)


class Inference:
    """One call of a loaded model, which maps uint8 arrays to arrays.

    Attributes:
      trees: the parameters, by network name.
      images: uint8 [2B, size, size, 3], what it is called with.
    """

    def __init__(self, call: str, setting: Setting) -> None:
        """Draws parameters and makes a `FaceCycle` of them; the first call compiles.

        Args:
          call: one of `CALLS`.
          setting: what is measured.
        """
        self._precision = PRECISIONS[setting.precision][1]
        _, self.trees = initial_trees("motion_cycle", setting)
        self.images = to_bytes(random_images(setting.batch, size=setting.size))

        # A CPU's devices are all given: the model splits them as it does for a user.
        devices = (
            jax.devices("cpu")
            if setting.device == "cpu"
            else [device_of(setting.device)]
        )
        model = FaceCycle(
            self.trees,
            model=model_of(setting),
            batch_size=len(self.images),
            devices=devices,
        )
        self._call = getattr(model, call)

    def __call__(self) -> np.ndarray:
        """Computes the output of all images."""
        with jax.default_matmul_precision(self._precision):
            return self._call(self.images)


def to_bytes(pairs: np.ndarray) -> np.ndarray:
    """Turns normalised pairs [B, 2, size, size, 3] into uint8 images.

    The result [2B, size, size, 3] holds all first images, then all second ones.
    """
    with jax.default_device(jax.devices("cpu")[0]):
        images = np.asarray(ops.denormalise(jnp.asarray(pairs)))
    return np.concatenate([images[:, 0], images[:, 1]])


def sampling_arrays(
    shape: tuple[int, int, int, int], *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draws maps and a smooth grid that mostly stays inside, like learned flows."""
    rng = np.random.default_rng(seed)
    n, height, width, _ = shape
    coarse = rng.normal(0, 0.15, (n, 4, 4, 2)).astype(np.float32)
    flow = ops.resize_bilinear(jnp.asarray(coarse), height=height, width=width)
    grid = ops.identity_grid(height=height, width=width) + flow
    return rng.standard_normal(shape).astype(np.float32), np.asarray(grid)


def sampling_function(implementation: str, *, backward: bool) -> Callable[..., Any]:
    """Returns the sampling of (image, grid), alone or with both gradients."""
    sample = functools.partial(
        ops.grid_sample, align_corners=True, implementation=implementation
    )

    def both(image: jax.Array, grid: jax.Array) -> Any:
        out, pull = jax.vjp(sample, image, grid)
        return out, pull(out)

    return both if backward else sample


def grid_sample_program(
    image: np.ndarray,
    grid: np.ndarray,
    *,
    implementation: str,
    backward: bool,
    setting: Setting,
) -> Callable[[], Any]:
    """Builds a program that samples and, if asked, differentiates by image and grid."""
    sample = sampling_function(implementation, backward=backward)
    arguments = jnp.asarray(image, PRECISIONS[setting.precision][0]), grid
    return compiled_program(sample, arguments, setting)


def compiled_program(
    function: Callable[..., Any], arguments: Any, setting: Setting
) -> Callable[[], Any]:
    """Builds a program that calls a compiled function on arguments on the device."""
    placed = jax.device_put(arguments, device_of(setting.device))
    compiled = jax.jit(function)

    def program() -> Any:
        with jax.default_matmul_precision(PRECISIONS[setting.precision][1]):
            return jax.block_until_ready(compiled(*placed))

    return program
