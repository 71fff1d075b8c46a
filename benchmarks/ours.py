"""Our side of the comparison: train steps and inference, ready to call.

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

# The computation dtype and the precision of float32 products, by the precision of a
# setting.
PRECISIONS = {
    "float32": ("float32", "highest"),
    "tf32": ("float32", "tensorfloat32"),
    "bfloat16": ("bfloat16", "default"),
}
# Methods of `FaceCycle` that are timed.
CALLS = ("neutral", "reconstruct", "flow", "motion_code")
# Adam's learning rate and decays of its moments, by stage.
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
      UserError: If this machine or this build of JAX has none.
    """
    try:
        return jax.devices(kind)[0]
    except RuntimeError:
        raise UserError(f"JAX finds no {kind} here; choose another --device.") from None


def devices_of(setting: Setting) -> list[jax.Device]:
    """Returns the devices of a train step.

    It is one device, except on a CPU, which is split as training splits it.

    Args:
      setting: gives the kind of the device and the batch.

    Returns:
      At least one device.

    Raises:
      UserError: If this machine or this build of JAX has none of the kind.
    """
    if setting.device != "cpu":
        return [device_of(setting.device)]

    devices = jax.devices("cpu")
    count = cpu_devices_for({"batch_size": setting.batch}, len(devices))
    return devices[:count]


def random_images(batch: int, *, size: int = 64, seed: int = 0) -> np.ndarray:
    """Draws smooth images. Their content does not influence the time.

    Args:
      batch: number of pairs.
      size: side of the images in pixels.
      seed: of the random numbers.

    Returns:
      float32 [batch, 2, size, size, 3], normalised.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.random((batch, 2, 8, 8, 3)).astype(np.float32)
    with jax.default_device(jax.devices("cpu")[0]):
        images = ops.resize_bilinear(jnp.asarray(coarse), height=size, width=size)
        return np.asarray(ops.normalise(images))


def to_bytes(pairs: np.ndarray) -> np.ndarray:
    """Converts pairs of normalised images to uint8 images.

    Args:
      pairs: float32 [B, 2, size, size, 3].

    Returns:
      uint8 [2B, size, size, 3]: all first images, then all second ones.
    """
    with jax.default_device(jax.devices("cpu")[0]):
        images = np.asarray(ops.denormalise(jnp.asarray(pairs)))
    return np.concatenate([images[:, 0], images[:, 1]])


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


def networks_of(setting: Setting) -> FaceNetworks:
    """Builds the networks of a setting."""
    return make_face_networks(
        model_of(setting), vgg_width=setting.width, remat=setting.remat
    )


def initial_trees(
    stage: str, setting: Setting
) -> tuple[methods.Method, dict[str, Any]]:
    """Builds a stage's method and draws its parameters on the CPU.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      setting: gives width, image size, precision and remat.

    Returns:
      The method, and NumPy arrays by network name, the VGG-19's included. They are
      those of the random key 0.
    """
    with jax.default_device(jax.devices("cpu")[0]):
        vgg = random_vgg(width=setting.width)
        method = methods.METHODS[stage].build(networks_of(setting), vgg)

        # With full optimisation this program compiles far longer than it runs.
        quick = cpu_compiler_options("cpu", level=0)
        init = jax.jit(method.init, compiler_options=quick)
        params, frozen = init(jax.random.key(0))
        return method, jax.tree.map(np.asarray, {**frozen, **params})


class TrainStep:
    """The training loop's step on images that lie on the device.

    One call is one finished update.

    Attributes:
      trees: the initial parameters by network name.
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
        before = _COMPILED.get((stage, setting))
        self.ahead_s = before.seconds if before else 0.0

        method, self.trees = initial_trees(stage, setting)
        self._loss = jax.jit(method.loss)

        mesh = make_mesh(devices_of(setting))
        self._draw = plan_state(stage, method, mesh).draw
        self._state = self._draw(jax.random.key(0))
        batch = {"images": random_images(setting.batch, size=setting.size)}
        self._batch = training.put_batch(batch, mesh)

    def __call__(self) -> None:
        """Makes one update."""
        self._state, averages = self.compiled()(self._state, self._batch)
        jax.block_until_ready((self._state, averages))

    def total(self) -> float:
        """Computes the loss of the initial parameters without noise.

        Both sides are compared by it.
        """
        # The updates have donated the first state, so it is drawn again.
        initial = self._draw(jax.random.key(0))
        with jax.default_matmul_precision(PRECISIONS[self._setting.precision][1]):
            total, _ = self._loss(
                initial.params, initial.frozen, self._batch["images"], None
            )
        return float(total)

    def compiled(self) -> jax.stages.Compiled:
        """Returns the compiled step, with its costs, memory and program."""
        return compile_step(self._stage, self._setting).program


class CompiledStep(NamedTuple):
    """A compiled train step.

    Attributes:
      program: the step, of a state and a batch.
      seconds: time of tracing and compiling it, with whatever else ran then.
    """

    program: jax.stages.Compiled
    seconds: float


# Only programs are kept: a state for every setting would fill the memory of a GPU.
_COMPILED: dict[tuple[str, Setting], CompiledStep] = {}
_COMPILING: dict[tuple[str, Setting], threading.Lock] = {}


def compile_step(stage: str, setting: Setting) -> CompiledStep:
    """Compiles a train step for its devices, once in a process.

    Several threads may call this, and compile different steps at the same time.

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


class StatePlan(NamedTuple):
    """A train step's state before it is drawn.

    Attributes:
      optimiser: Adam, with the stage's rate and decays.
      shardings: a sharding for every array of the state.
      draw: the jitted function that draws the state from a random key.
    """

    optimiser: optax.GradientTransformation
    shardings: Any
    draw: Callable[[jax.Array], TrainState]


def plan_state(
    stage: str, method: methods.Method, mesh: jax.sharding.Mesh, *, fsdp: bool = False
) -> StatePlan:
    """Plans the state of a train step, without arrays.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      method: its method.
      mesh: where the state is to lie, real or abstract.
      fsdp: whether to shard parameters and optimiser state.

    Returns:
      The plan.
    """
    rate, b1, b2 = ADAM[stage]
    optimiser = optax.adam(rate, b1=b1, b2=b2)
    init = functools.partial(init_state, method=method, optimiser=optimiser)

    shapes = jax.eval_shape(init, jax.random.key(0))
    shardings = training.state_shardings(mesh, shapes, fsdp=fsdp)
    quick = cpu_compiler_options(mesh.devices.flat[0].platform, level=0)
    draw = jax.jit(init, out_shardings=shardings, compiler_options=quick)
    return StatePlan(optimiser=optimiser, shardings=shardings, draw=draw)


def build_step(
    method: methods.Method, state: StatePlan, mesh: jax.sharding.Mesh
) -> Any:
    """Builds the training loop's step on images that need no augmentation.

    Args:
      method: what is trained.
      state: that of `plan_state` for the same method and mesh.
      mesh: where it runs.

    Returns:
      The jitted `step(state, {'images': ...}) -> (state, averages)`.
    """
    return training.make_train_step(
        method,
        state.optimiser,
        augment=lambda key, batch: batch["images"],
        options=training.StepOptions(),
        mesh=mesh,
        shardings=state.shardings,
    )


def lower_step(
    stage: str, setting: Setting, mesh: jax.sharding.Mesh
) -> jax.stages.Lowered:
    """Lowers the training loop's step for a mesh, real or abstract, without arrays.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      setting: what is lowered; its device is not used.
      mesh: where it is to run.

    Returns:
      The lowered step. Its cost analysis is that of the program as written.
    """
    # The step has the VGG-19 as an argument, so that zeros of its shapes are enough.
    shapes = jax.eval_shape(lambda: random_vgg(width=setting.width))
    vgg = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    method = methods.METHODS[stage].build(networks_of(setting), vgg)

    planned = plan_state(stage, method, mesh)
    step = build_step(method, planned, mesh)
    state = jax.eval_shape(planned.draw, jax.random.key(0))
    shape = (setting.batch, 2, setting.size, setting.size, 3)
    batch = {"images": jax.ShapeDtypeStruct(shape, jnp.float32)}
    with jax.default_matmul_precision(PRECISIONS[setting.precision][1]):
        return step.lower(state, batch)


class Inference:
    """One call of a loaded model, which maps uint8 arrays to arrays.

    Attributes:
      trees: the parameters by network name.
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

        # Of a CPU, the model gets all devices, and chooses among them as for a user.
        if setting.device == "cpu":
            devices = jax.devices("cpu")
        else:
            devices = [device_of(setting.device)]
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


def compiled_program(
    function: Callable[..., Any], arguments: Any, setting: Setting
) -> Callable[[], Any]:
    """Builds a program that calls a jitted function.

    Args:
      function: what is jitted. The first call compiles it.
      arguments: its arguments, which are put on the device once.
      setting: gives device and precision.

    Returns:
      The program; its calls return when the results are computed.
    """
    placed = jax.device_put(arguments, device_of(setting.device))
    jitted = jax.jit(function)

    def program() -> Any:
        with jax.default_matmul_precision(PRECISIONS[setting.precision][1]):
            return jax.block_until_ready(jitted(*placed))

    return program
