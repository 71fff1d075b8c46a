"""Both cycles of FaceCycle in plain PyTorch, the reference of the benchmark.

Needs the extra `torch`.

Written as one writes a first version: every network call computes what it needs from
images, nothing is shared between calls. Images [N, 3, H, W], normalised, [x0; x1]
stacked.

References:
  FaceCycle (ICCV 2021), sections 3.1 and 3.2.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facecycle_jax.interop.original_names import to_torch
from facecycle_jax.networks import LOSS_TAPS
from tests.reference_torch.networks import (
    CodeEncoder,
    FlowDecoder,
    Generator,
    Normaliser,
    Trunk,
    backward_flow,
    warp,
)

TRAINED = {
    "motion_cycle": ("codegeneration", "exptoflow", "Swap_Generator"),
    "identity_cycle": ("idcodegen", "Swap_Norm"),
}


class Reference(nn.Module):
    """All networks of one stage by their original names, and the loss's VGG-19."""

    def __init__(self, stage: str, *, width: float = 1.0, code_dim: int = 256) -> None:
        """Builds the networks.

        Args:
          stage: 'motion_cycle' or 'identity_cycle'.
          width: multiplier on all channels, the VGG-19's included; 1 is the paper's.
          code_dim: length of the codes.
        """
        super().__init__()
        self.stage = stage
        self.codegeneration = CodeEncoder(width, code_dim)
        self.exptoflow = FlowDecoder(width, code_dim)
        self.Swap_Generator = Generator(width)
        if stage == "identity_cycle":
            self.idcodegen = CodeEncoder(width, code_dim)
            self.Swap_Norm = Normaliser(width, code_dim)
        self.vgg = Trunk(width, "conv4_1")
        for name, parameter in self.named_parameters():
            module, layer = name.split(".")[:2]
            trunk = hasattr(self.vgg, layer)
            parameter.requires_grad_(module in TRAINED[stage] and not trunk)

    def forward(
        self, x: Tensor, *, noise: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the total loss of images [2B, 3, H, W] and its unweighted terms."""
        return (_motion_loss if self.stage == "motion_cycle" else _identity_loss)(
            self, x, noise
        )

    def neutral(self, x: Tensor, *, noise: bool = False) -> Tensor:
        """Draws the neutral faces of images."""
        return self.Swap_Generator(
            x, self.exptoflow(self.codegeneration(x)), noise=noise
        )

    def reconstruct(self, x: Tensor, *, noise: bool = False) -> Tensor:
        """Draws images from their own neutral faces and flows."""
        flow = self.exptoflow(self.codegeneration(x))
        neutral = self.Swap_Generator(x, flow, noise=noise)
        return self.Swap_Generator(neutral, backward_flow(flow), noise=noise)

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields what the stage trains, by name."""
        return ((n, p) for n, p in self.named_parameters() if p.requires_grad)


def load_trees(model: Reference, trees: Mapping[str, Any]) -> None:
    """Copies our parameter trees into the PyTorch networks.

    Args:
      model: what to fill.
      trees: {network: tree} with 'vgg' among them, conv1_1 .. conv4_1.

    Raises:
      RuntimeError: if names or shapes do not fit.
    """
    state = {f"{module}.{name}": array for module, name, array in to_torch(trees)}
    for layer, part in trees["vgg"].items():
        kernel = np.asarray(part["kernel"]).transpose(3, 2, 0, 1)
        for owner in ("vgg", "Swap_Generator", "Swap_Norm"):
            if owner == "vgg" or layer in (
                "conv1_1",
                "conv1_2",
                "conv2_1",
                "conv2_2",
                "conv3_1",
            ):
                state[f"{owner}.{layer}.0.weight"] = kernel
                state[f"{owner}.{layer}.0.bias"] = np.asarray(part["bias"])
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(state))
    if missing:
        raise RuntimeError(
            f"the trees lack {missing[0]} and {len(missing) - 1} more arrays."
        )
    model.load_state_dict(
        {name: torch.tensor(np.array(state[name])) for name in wanted}
    )


def _l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


def _symmetry(x: Tensor) -> Tensor:
    half = x.shape[3] // 2
    return _l1(x[..., :half], x[..., half:].flip(3))


def _dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """1 - SSIM, 11x11 Gaussian window of sigma 1.5, zero padding."""
    channels = a.shape[1]
    places = torch.arange(11, device=a.device, dtype=torch.float32) - 5
    line = torch.exp(-(places**2) / 4.5)
    line = line / line.sum()
    window = torch.outer(line, line).expand(channels, 1, 11, 11)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, window, padding=5, groups=channels)

    # Variances are differences of close numbers: in float32 whatever the rest is
    # computed in.
    with torch.autocast(a.device.type, enabled=False):
        mean_a, mean_b = blur(a), blur(b)
        var_a = blur(a * a) - mean_a**2
        var_b = blur(b * b) - mean_b**2
        covariance = blur(a * b) - mean_a * mean_b
        luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
        structure = (2 * covariance + 0.03**2) / (var_a + var_b + 0.03**2)
        return 1 - (luminance * structure).mean()


def _gram(x: Tensor) -> Tensor:
    flat = x.flatten(2)
    return (flat @ flat.transpose(1, 2)).float() / flat.shape[2]


def _gram_terms(model: Reference, sets: list[Tensor], x: Tensor) -> dict[str, Tensor]:
    """One term a layer: Gram matrices of the sets against those of X, repeated."""
    maps = model.vgg.maps(torch.cat(sets))
    with torch.no_grad():
        targets = model.vgg.maps(torch.cat([x] * len(sets)))
    return {
        f"gram/{tap}": F.mse_loss(_gram(maps[tap]), _gram(targets[tap]))
        for tap in LOSS_TAPS
    }


def _swap(x: Tensor) -> Tensor:
    a, b = x.chunk(2)
    return torch.cat([b, a])


def _motion_loss(
    model: Reference, x: Tensor, noise: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    flow = model.exptoflow(model.codegeneration(x))
    back = backward_flow(flow)
    draw = model.Swap_Generator
    neutral = draw(x, flow, noise=noise)
    exchanged = _swap(neutral)
    recon = draw(exchanged, back, noise=noise)
    auto = draw(x, None, noise=noise)
    warped = warp(x, flow, clamp=True)
    warped_back = warp(_swap(warped), back, clamp=True)
    neutral_back = warp(exchanged, back, clamp=True)
    terms = {
        "l1/reconstruction": _l1(recon, x),
        "l1/autoencoded": _l1(auto, x),
        "l1/neutral_warped_back": _l1(neutral_back, x),
        "l1/warped_back": _l1(warped_back, x),
        **_gram_terms(model, [neutral, neutral_back, warped_back, recon], x),
        "ssim/reconstruction": _dissimilarity(x, recon),
        "ssim/autoencoded": _dissimilarity(x, auto),
        "ssim/warped_back": _dissimilarity(x, warped_back),
        "symmetry/neutral": _symmetry(neutral),
        "symmetry/warped": _symmetry(warped),
    }
    weights = dict.fromkeys(terms, 1.0) | {f"gram/{tap}": 0.01 for tap in LOSS_TAPS}
    weights |= {"l1/warped_back": 1.5, "symmetry/neutral": 1.5, "symmetry/warped": 0.75}
    weights |= {
        "ssim/reconstruction": 5.0,
        "ssim/autoencoded": 5.0,
        "ssim/warped_back": 7.5,
    }
    return torch.stack([terms[name] * weights[name] for name in terms]).sum(), terms


def _identity_loss(
    model: Reference, x: Tensor, noise: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    draw = model.Swap_Generator
    with torch.no_grad():
        flow = model.exptoflow(model.codegeneration(x))
        back = backward_flow(flow)
        neutral = draw(x, flow, noise=noise)
    code = model.idcodegen(x)
    mean_face = model.Swap_Norm(neutral, code, remove=True)
    mean = mean_face.mean(0, keepdim=True).expand_as(mean_face)
    restored = model.Swap_Norm(mean, code, remove=False)
    warped_back = warp(restored, back, clamp=True)
    recon = draw(restored, back, noise=noise)
    terms = {
        "l1/reconstruction": _l1(recon, x),
        "l1/restored_warped_back": _l1(warped_back, x),
        "l1/restored": _l1(restored, neutral),
        **_gram_terms(model, [warped_back, recon], x),
        "ssim/reconstruction": _dissimilarity(x, recon),
        "ssim/restored_warped_back": _dissimilarity(x, warped_back),
        "symmetry/restored": _symmetry(restored),
        "margin": ((mean - neutral).abs() - 0.1).mean(),
    }
    weights = dict.fromkeys(terms, 1.0) | {f"gram/{tap}": 0.01 for tap in LOSS_TAPS}
    weights |= {"l1/restored_warped_back": 0.8, "symmetry/restored": 1.5}
    weights |= {"ssim/reconstruction": 5.0, "ssim/restored_warped_back": 4.0}
    return torch.stack([terms[name] * weights[name] for name in terms]).sum(), terms
