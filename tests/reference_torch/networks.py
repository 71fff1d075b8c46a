"""The networks of FaceCycle in plain PyTorch, NCHW, for measuring against.

Needs the extra `torch`.

Attributes carry the names of the original program's checkpoints, so that
`convert.names` maps weights. Images [N, 3, H, W], normalised; flows [N, h, w, 2].
"""

from collections.abc import Callable

from facecycle_jax.errors import MissingExtraError
from facecycle_jax.networks.blocks import scaled
from facecycle_jax.networks.vgg import LAYERS as VGG_LAYERS

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
except ImportError:
    raise MissingExtraError(
        "the PyTorch side of the benchmark needs PyTorch: pip install "
        "'facecycle_jax[torch]'."
    ) from None


def warp(images: Tensor, flow: Tensor, *, clamp: bool = False) -> Tensor:
    """Samples `images` [N, C, H, W] at the identity grid plus `flow` [N, h, w, 2]."""
    height, width = images.shape[2:]
    if flow.shape[1:3] != (height, width):
        flow = F.interpolate(
            flow.permute(0, 3, 1, 2),
            (height, width),
            mode="bilinear",
            align_corners=True,
        )
        flow = flow.permute(0, 2, 3, 1)
    if clamp:
        flow = flow.clamp(-1, 1)
    ys = torch.linspace(-1, 1, height, device=flow.device)
    xs = torch.linspace(-1, 1, width, device=flow.device)
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    grid = torch.stack([x, y], -1) + flow
    return F.grid_sample(
        images,
        grid.to(images.dtype),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=True,
    )


def backward_flow(flow: Tensor) -> Tensor:
    """Approximates the inverse of a flow [N, h, w, 2]."""
    return -warp(flow.permute(0, 3, 1, 2), flow).permute(0, 2, 3, 1).clamp(-1, 1)


def _conv(
    incoming: int, outgoing: int, kernel: int = 3, *, stride: int = 1, bias: bool = True
) -> nn.Conv2d:
    return nn.Conv2d(incoming, outgoing, kernel, stride, (kernel - 1) // 2, bias=bias)


def _double() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)


class ResidualBlock(nn.Module):
    """LReLU(x + conv(LReLU(conv(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels)
        self.conv2 = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, H, W] to the same shape."""
        return F.leaky_relu(x + self.conv2(F.leaky_relu(self.conv1(x), 0.1)), 0.1)


class ChannelAttention(nn.Module):
    """Channel attention: LReLU(x + (phi theta^T) g), theta and g after softmax."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = _conv(channels, channels, 1)
        self.theta = _conv(channels, channels, 1)
        self.phi = _conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, H, W] to the same shape."""
        theta = self.theta(x).flatten(2).softmax(2)
        relation = self.phi(x).flatten(2) @ theta.transpose(1, 2)
        out = relation @ self.g(x).flatten(2).softmax(1)
        return F.leaky_relu(x + out.view_as(x), 0.1)


class CodeEncoder(nn.Module):
    """64-pixel images to codes [N, code_dim] in (-1, 1)."""

    def __init__(self, width: float, code_dim: int) -> None:
        super().__init__()
        c64, c128, c256, c512 = (scaled(c, width) for c in (64, 128, 256, 512))

        def pair(
            a: int, b: int, c: int, *, stride: int = 1, kernel: int = 3
        ) -> nn.Sequential:
            first = _conv(a, b, kernel, stride=stride)
            return nn.Sequential(
                first, nn.LeakyReLU(0.1), _conv(b, c), nn.LeakyReLU(0.1)
            )

        def attended(a: int, b: int, *, stride: int = 1) -> nn.Sequential:
            first = _conv(a, b, stride=stride)
            rest = (ChannelAttention(b), _conv(b, b), nn.LeakyReLU(0.1))
            return nn.Sequential(first, nn.LeakyReLU(0.1), *rest)

        self.conv1 = pair(3, c64, c64, stride=2, kernel=7)
        self.layer1 = attended(c64, c64)
        self.layer2_1 = attended(c64, c128, stride=2)
        self.resblock1 = ResidualBlock(c128)
        self.resblock2 = ResidualBlock(c128)
        self.layer2_2 = pair(c128, c128, c128, stride=2)
        self.layer3_1 = pair(c128, c256, c256, stride=2)
        self.layer3_2 = pair(c256, c256, c128)
        self.expresscode = nn.Sequential(
            nn.Linear(16 * c128, c512),
            nn.LeakyReLU(0.1),
            nn.Linear(c512, code_dim),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Encodes [N, 3, 64, 64]."""
        x = self.resblock2(self.resblock1(self.layer2_1(self.layer1(self.conv1(x)))))
        return self.expresscode(
            self.layer3_2(self.layer3_1(self.layer2_2(x))).flatten(1)
        ).float()


class FlowDecoder(nn.Module):
    """Codes to flows [N, 16, 16, 2] in (-1, 1)."""

    def __init__(self, width: float, code_dim: int) -> None:
        super().__init__()
        c64, c128, c256 = (scaled(c, width) for c in (64, 128, 256))
        self.motiongen1 = nn.Sequential(
            _conv(code_dim, 16 * c256, 1), nn.PixelShuffle(4), nn.LeakyReLU(0.1),
            ChannelAttention(c256), _conv(c256, c256), nn.LeakyReLU(0.1),
        )  # fmt: skip
        self.motiongen2 = nn.Sequential(
            _double(), _conv(c256, c128), nn.LeakyReLU(0.1),
            ChannelAttention(c128), _conv(c128, c128), nn.LeakyReLU(0.1),
        )  # fmt: skip
        self.resblock1 = ResidualBlock(c128)
        self.resblock2 = ResidualBlock(c128)
        self.toflow4 = nn.Sequential(
            _double(),
            _conv(c128, c64),
            nn.LeakyReLU(0.1),
            _conv(c64, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, code: Tensor) -> Tensor:
        """Decodes [N, code_dim]."""
        x = self.motiongen2(self.motiongen1(code[:, :, None, None]))
        return (
            self.toflow4(self.resblock2(self.resblock1(x))).float().permute(0, 2, 3, 1)
        )


class Trunk(nn.Module):
    """VGG-19 up to a layer.

    Every network that produces images holds its own, as in the original.
    """

    def __init__(self, width: float, last: str = "conv3_1") -> None:
        super().__init__()
        self.names: list[str] = []
        incoming = 3
        for name, channels, _ in VGG_LAYERS:
            outgoing = scaled(channels, width)
            self.add_module(name, nn.Sequential(_conv(incoming, outgoing), nn.ReLU()))
            self.names.append(name)
            incoming = outgoing
            if name == last:
                break

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Computes the rectified maps of all layers by name."""
        pooled = {name for name, _, pool in VGG_LAYERS if pool}
        out = {}
        for name in self.names:
            x = getattr(self, name)(F.max_pool2d(x, 2) if name in pooled else x)
            out[name] = x
        return out


def _upconv(incoming: int, outgoing: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(incoming, outgoing, 4, 2, 1)


def _rectified(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))


class Generator(Trunk):
    """Images, moved by a flow or as they are, drawn again [N, 3, H, W]."""

    def __init__(self, width: float) -> None:
        super().__init__(width)
        half, full = scaled(128, width), scaled(256, width)
        self.redconv = _rectified(_conv(full, full))
        self.cnn = nn.Sequential(*(ResidualBlock(full) for _ in range(8)))
        self.up = _rectified(_upconv(full, half), _conv(half, half))
        self.up2 = _rectified(_upconv(2 * half, half), _conv(half, half))
        self.torgb = _conv(half, 3)
        self.noise_encoding1 = _rectified(_conv(half, half), _conv(half, half))
        self.noise_encoding0 = _rectified(_conv(full, full), _conv(full, full))

    def forward(self, images: Tensor, flow: Tensor | None, *, noise: bool) -> Tensor:
        """Draws [N, 3, H, W]; with a flow, and noise where asked for."""
        maps = self.maps(images)
        fine, coarse = maps["conv2_1"], maps["conv3_1"]
        if flow is not None:

            def moved(x: Tensor, fill: Callable[[Tensor], Tensor]) -> Tensor:
                mean = x.mean((2, 3), keepdim=True).expand_as(x)
                return warp(x, flow) + fill(
                    mean + torch.randn_like(x) if noise else mean
                )

            coarse, fine = (
                moved(coarse, self.noise_encoding0),
                moved(fine, self.noise_encoding1),
            )
        x = self.up(self.cnn(self.redconv(coarse)))
        return self.torgb(self.up2(torch.cat([fine, x], 1))).float()


class Modulation(nn.Module):
    """Instance normalisation, scaled and shifted by a code."""

    def __init__(self, channels: int, code_dim: int) -> None:
        super().__init__()
        self.beta = _conv(code_dim, channels, 1)
        self.gamma = _conv(code_dim, channels, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Modulates [N, C, H, W] by [N, code_dim]."""
        code = code[:, :, None, None]
        return F.instance_norm(x, eps=1e-5) * self.gamma(code) + self.beta(code)


class Normaliser(Trunk):
    """Takes identity out of images, or puts it back."""

    def __init__(self, width: float, code_dim: int) -> None:
        super().__init__(width)
        half, full = scaled(128, width), scaled(256, width)
        self.denorm = Modulation(full, code_dim)
        self.renorm = Modulation(full, code_dim)
        self.cnn = nn.Sequential(*(ResidualBlock(full) for _ in range(6)))
        self.cnn3 = nn.Sequential(ResidualBlock(full))
        self.up = _rectified(
            _upconv(full, half), _conv(half, half), _upconv(half, half)
        )
        self.torgb = _conv(half, 3, 1)

    def forward(self, images: Tensor, code: Tensor, *, remove: bool) -> Tensor:
        """Draws [N, 3, H, W] without identity (`remove`) or with that of the code."""
        modulation = self.denorm if remove else self.renorm
        x = modulation(self.maps(images)["conv3_1"], code)
        return self.torgb(self.up(self.cnn3(self.cnn(x)))).float()
