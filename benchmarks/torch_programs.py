"""PyTorch's side of the comparison.

The plain implementation is run in several modes.
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

# cuDNN tries its algorithms at the first call of each shape, as XLA's compiler does; in
# every program, so that none is measured with a worse one.
torch.backends.cudnn.benchmark = True


def torch_device(kind: str) -> torch.device:
    """Maps our name of a device to PyTorch's.

    Args:
      kind: 'cpu', 'gpu' or 'tpu'.

    Returns:
      The device.

    Raises:
      ValueError: if PyTorch cannot compute there.
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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def _precision(setting: Setting, device: torch.device) -> Iterator[None]:
    """Sets TF32 and bfloat16 as the setting has them, and puts TF32 back."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    fast = setting.precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = fast
    try:
        with torch.autocast(
            device.type, torch.bfloat16, enabled=setting.precision == "bfloat16"
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _prepared(
    stage: str,
    setting: Setting,
    trees: Mapping[str, Any],
    images: np.ndarray,
    mode: str,
) -> tuple[Reference, torch.Tensor, torch.device]:
    """Prepares networks with our weights, and images, as the mode requires.

    The images are ordered as all first ones of the pairs, then all second ones.
    """
    device = torch_device(setting.device)
    model = Reference(stage, width=setting.width)
    load_trees(model, trees)
    stacked = np.concatenate([images[:, 0], images[:, 1]]).transpose(0, 3, 1, 2)
    x = torch.tensor(np.ascontiguousarray(stacked), device=device)
    model = model.to(device)
    if mode == "channels_last":
        # Any: torch's own types do not know this call.
        model = cast(Any, model).to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    return model, x, device


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
          trees: our parameter trees.
          images: [B, 2, 64, 64, 3], normalised.
          mode: one of `cases.MODES`.
        """
        self._setting = setting
        self._model, self._x, self._device = _prepared(
            stage, setting, trees, images, mode
        )
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
        """Computes the loss without noise."""
        with torch.no_grad(), _precision(self._setting, self._device):
            return self._model(self._x, noise=False)[0].item()


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
          trees: our parameter trees.
          images: uint8 [2B, 64, 64, 3].
          mode: one of `cases.MODES`.
        """
        self._setting = setting
        self._images = images
        self._device = torch_device(setting.device)
        self._layout = (
            torch.channels_last if mode == "channels_last" else torch.contiguous_format
        )
        model = Reference("motion_cycle", width=setting.width)
        load_trees(model, trees)
        # Any: torch's own types do not know this call.
        model = cast(Any, model).to(self._device, memory_format=self._layout)

        networks: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "motion_code": model.codegeneration,
            "flow": lambda x: model.exptoflow(model.codegeneration(x)),
            "neutral": model.neutral,
            "reconstruct": model.reconstruct,
        }
        self._is_image = call in ("neutral", "reconstruct")
        self._network = (
            torch.compile(networks[call]) if mode == "compile" else networks[call]
        )
        self._mean, self._std = (
            torch.tensor(values, device=self._device).reshape(1, 3, 1, 1)
            for values in (MEAN, STD)
        )

    def __call__(self) -> np.ndarray:
        """Computes the output of all images, in our layout."""
        with torch.inference_mode(), _precision(self._setting, self._device):
            x = torch.from_numpy(self._images).to(self._device).permute(0, 3, 1, 2)
            x = ((x.float() / 255 - self._mean) / self._std).contiguous(
                memory_format=self._layout
            )
            y = self._network(x).float()
            if self._is_image:
                y = (
                    ((y * self._std + self._mean).clamp(0, 1) * 255)
                    .round()
                    .to(torch.uint8)
                )
                y = y.permute(0, 2, 3, 1)
            # Flows are [N, h, w, 2] there too.
            return np.ascontiguousarray(y.cpu().numpy())


def grid_sample_program(
    image: np.ndarray, grid: np.ndarray, *, backward: bool, setting: Setting
) -> Callable[[], Any]:
    """Builds PyTorch's sampling of the same arrays, forward or with both gradients."""
    (x,), device = _tensors((image,), setting)
    places = torch.tensor(grid, device=device, dtype=x.dtype)
    x.requires_grad_(backward)
    places.requires_grad_(backward)

    def program() -> Any:
        out = F.grid_sample(
            x, places, mode="bilinear", padding_mode="zeros", align_corners=True
        )
        result = (
            torch.autograd.grad(out, (x, places), out.detach()) if backward else out
        )
        _wait(device)
        return result

    return program


def kernel_gradient_program(
    x: np.ndarray, cotangent: np.ndarray, *, setting: Setting, taps: int, padding: int
) -> Callable[[], Any]:
    """Builds PyTorch's gradient of a convolution by its kernel, from NHWC arrays."""
    shape = (cotangent.shape[-1], x.shape[-1], taps, taps)
    arrays, device = _tensors((x, cotangent), setting)

    def program() -> Any:
        with _precision(setting, device):
            result = torch.nn.grad.conv2d_weight(
                arrays[0], shape, arrays[1], padding=padding
            )
        _wait(device)
        return result

    return program


def max_pool_program(
    x: np.ndarray, cotangent: np.ndarray, *, setting: Setting
) -> Callable[[], Any]:
    """Builds PyTorch's 2x2 max pooling of [N, H, W, C] with its gradient."""
    (x_, cotangent_), device = _tensors((x, cotangent), setting)
    x_.requires_grad_()

    def program() -> Any:
        out = F.max_pool2d(x_, 2)
        result = torch.autograd.grad(out, x_, cotangent_)
        _wait(device)
        return result

    return program


def _tensors(
    arrays: tuple[np.ndarray, ...], setting: Setting
) -> tuple[list[torch.Tensor], torch.device]:
    """Puts maps [N, H, W, C] where and as PyTorch has them, [N, C, H, W]."""
    device = torch_device(setting.device)
    dtype = torch.bfloat16 if setting.precision == "bfloat16" else torch.float32
    moved = [
        torch.tensor(a.transpose(0, 3, 1, 2).copy(), device=device, dtype=dtype)
        for a in arrays
    ]
    return moved, device
