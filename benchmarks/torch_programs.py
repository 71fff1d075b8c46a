"""PyTorch's side of the comparison: the plain implementation, run in several modes.

A program returns when its device has finished.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.ours import ADAM, Setting
from facecycle_jax.errors import UserError
from facecycle_jax.ops.normalisation import MEAN, STD
from tests.reference_torch.training import Reference, load_trees

# cuDNN tries its algorithms at the first call of each shape, as XLA's compiler does.
# Set for every program, so that none is measured with a worse algorithm.
torch.backends.cudnn.benchmark = True


def torch_device(kind: str) -> torch.device:
    """Maps our name of a device to PyTorch's.

    Args:
      kind: 'cpu', 'gpu' or 'tpu'.

    Returns:
      The device.

    Raises:
      UserError: If PyTorch cannot compute there.
    """
    if kind == "cpu":
        return torch.device("cpu")
    if kind == "gpu" and torch.cuda.is_available():
        return torch.device("cuda")
    raise UserError(f"PyTorch {torch.__version__} finds no {kind} here")


def release() -> None:
    """Returns PyTorch's cached memory to the GPU, where JAX needs it too."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class TorchTrainStep:
    """One update of the plain implementation, finished when the call returns."""

    def __init__(
        self,
        stage: str,
        setting: Setting,
        trees: Mapping[str, Any],
        images: np.ndarray,
        *,
        mode: str,
    ) -> None:
        """Builds the networks from our weights.

        Args:
          stage: 'motion_cycle' or 'identity_cycle'.
          setting: what is measured.
          trees: our initial parameters by network name.
          images: float32 [B, 2, 64, 64, 3], normalised.
          mode: one of `cases.MODES`.
        """
        self._setting = setting
        self._trees = trees
        self._device = torch_device(setting.device)

        # All first images of the pairs, then all second ones, as [2B, 3, 64, 64].
        stacked = np.concatenate([images[:, 0], images[:, 1]])
        stacked = np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))
        layout = _layout(mode)
        x = torch.tensor(stacked, device=self._device)
        self._x = x.contiguous(memory_format=layout)
        self._model = _load_reference(stage, setting, trees, self._device, layout)

        rate, b1, b2 = ADAM[stage]
        trained = [parameter for _, parameter in self._model.trained()]
        self._optimiser = torch.optim.Adam(trained, lr=rate, betas=(b1, b2))
        self._forward: Callable[..., Any] = self._model
        if mode == "compile":
            self._forward = torch.compile(self._model)

    def __call__(self) -> None:
        """Makes one update, with noise."""
        self._optimiser.zero_grad(set_to_none=True)
        with _precision(self._setting, self._device):
            total, _ = self._forward(self._x)
            total.backward()
        self._optimiser.step()
        _wait(self._device)

    def total(self) -> float:
        """Computes the loss of the initial parameters without noise.

        Both sides are compared by it. Updates made before are undone.
        """
        load_trees(self._model, self._trees)
        with torch.no_grad(), _precision(self._setting, self._device):
            total, _ = self._model(self._x, noise=False)
        return total.item()


class TorchInference:
    """The plain implementation of what `ours.Inference` computes.

    It maps uint8 arrays to arrays.
    """

    def __init__(
        self,
        call: str,
        setting: Setting,
        trees: Mapping[str, Any],
        images: np.ndarray,
        *,
        mode: str,
    ) -> None:
        """Builds the networks from our weights.

        Args:
          call: 'neutral', 'flow', 'motion_code' or 'reconstruct'.
          setting: what is measured.
          trees: our parameters by network name.
          images: uint8 [2B, 64, 64, 3].
          mode: one of `cases.MODES`.
        """
        self._setting = setting
        self._images = images
        self._device = torch_device(setting.device)
        self._layout = _layout(mode)
        model = _load_reference(
            "motion_cycle", setting, trees, self._device, self._layout
        )

        networks: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "motion_code": model.codegeneration,
            "flow": lambda x: model.exptoflow(model.codegeneration(x)),
            "neutral": model.neutral,
            "reconstruct": model.reconstruct,
        }
        self._is_image = call in ("neutral", "reconstruct")
        self._network = networks[call]
        if mode == "compile":
            self._network = torch.compile(self._network)

        # Of the colour channels, [1, 3, 1, 1].
        self._mean = torch.tensor(MEAN, device=self._device).reshape(1, 3, 1, 1)
        self._std = torch.tensor(STD, device=self._device).reshape(1, 3, 1, 1)

    def __call__(self) -> np.ndarray:
        """Computes the output of all images, in our layout."""
        with torch.inference_mode(), _precision(self._setting, self._device):
            x = torch.from_numpy(self._images).to(self._device).permute(0, 3, 1, 2)
            x = (x.float() / 255 - self._mean) / self._std
            x = x.contiguous(memory_format=self._layout)

            y = self._network(x).float()
            if self._is_image:
                y = (y * self._std + self._mean).clamp(0, 1)
                y = (y * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
            # Flows are [N, h, w, 2] in PyTorch, too.
            return np.ascontiguousarray(y.cpu().numpy())


def grid_sample_program(
    image: np.ndarray, grid: np.ndarray, *, backward: bool, setting: Setting
) -> Callable[[], Any]:
    """Builds PyTorch's sampling.

    Args:
      image: float32 [N, H, W, C].
      grid: float32 [N, H, W, 2].
      backward: whether the gradients of image and grid are computed too.
      setting: gives precision and device.

    Returns:
      The program.

    Raises:
      UserError: If PyTorch cannot compute on the device.
    """
    (x,), device = _tensors((image,), setting)
    # `grid_sample` requires one dtype of both. The plain implementation also rounds the
    # grid to that of the maps; ours keeps it in float32.
    places = torch.tensor(grid, device=device, dtype=x.dtype)
    x.requires_grad_(backward)
    places.requires_grad_(backward)

    def program() -> Any:
        out = F.grid_sample(
            x, places, mode="bilinear", padding_mode="zeros", align_corners=True
        )
        result = out
        if backward:
            result = torch.autograd.grad(out, (x, places), out.detach())
        _wait(device)
        return result

    return program


def kernel_gradient_program(
    x: np.ndarray, cotangent: np.ndarray, *, setting: Setting, taps: int, padding: int
) -> Callable[[], Any]:
    """Builds PyTorch's gradient of a convolution by its kernel.

    Args:
      x: float32 [N, H, W, C], the convolution's input.
      cotangent: float32 [N, h, w, F], of its output.
      setting: gives precision and device.
      taps: rows and columns of the kernel.
      padding: number of zeros on each side of a map.

    Returns:
      The program; its result is [F, C, taps, taps].

    Raises:
      UserError: If PyTorch cannot compute on the device.
    """
    shape = (cotangent.shape[-1], x.shape[-1], taps, taps)
    (maps, gradient), device = _tensors((x, cotangent), setting)

    def program() -> Any:
        with _precision(setting, device):
            result = torch.nn.grad.conv2d_weight(maps, shape, gradient, padding=padding)
        _wait(device)
        return result

    return program


def max_pool_program(
    x: np.ndarray, cotangent: np.ndarray, *, setting: Setting
) -> Callable[[], Any]:
    """Builds PyTorch's 2x2 max pooling with its gradient.

    Args:
      x: float32 [N, H, W, C].
      cotangent: float32 [N, H/2, W/2, C].
      setting: gives precision and device.

    Returns:
      The program; its result is a tuple of the gradient [N, C, H, W].

    Raises:
      UserError: If PyTorch cannot compute on the device.
    """
    (maps, gradient), device = _tensors((x, cotangent), setting)
    maps.requires_grad_()

    def program() -> Any:
        out = F.max_pool2d(maps, 2)
        result = torch.autograd.grad(out, maps, gradient)
        _wait(device)
        return result

    return program


def _load_reference(
    stage: str,
    setting: Setting,
    trees: Mapping[str, Any],
    device: torch.device,
    layout: torch.memory_format,
) -> Reference:
    """Builds the plain implementation with our weights, on the device."""
    model = Reference(stage, width=setting.width)
    load_trees(model, trees)
    # Any: torch's own types do not know this call.
    return cast(Any, model).to(device, memory_format=layout)


def _layout(mode: str) -> torch.memory_format:
    """Returns how maps lie in memory."""
    return torch.channels_last if mode == "channels_last" else torch.contiguous_format


def _tensors(
    arrays: tuple[np.ndarray, ...], setting: Setting
) -> tuple[list[torch.Tensor], torch.device]:
    """Copies maps [N, H, W, C] to the device, as [N, C, H, W].

    They have the setting's dtype there.
    """
    device = torch_device(setting.device)
    dtype = torch.bfloat16 if setting.precision == "bfloat16" else torch.float32
    tensors = []
    for array in arrays:
        channels_first = array.transpose(0, 3, 1, 2).copy()
        tensors.append(torch.tensor(channels_first, device=device, dtype=dtype))
    return tensors, device


@contextlib.contextmanager
def _precision(setting: Setting, device: torch.device) -> Iterator[None]:
    """Computes in the setting's precision within the context."""
    matmul = torch.backends.cuda.matmul
    cudnn = torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32)

    # With bfloat16, what autocast leaves in float32 may use TF32.
    may_round = setting.precision != "float32"
    matmul.allow_tf32 = may_round
    cudnn.allow_tf32 = may_round
    is_half = setting.precision == "bfloat16"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=is_half):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _wait(device: torch.device) -> None:
    """Waits until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()
