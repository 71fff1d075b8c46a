"""Floating-point operations and bytes of a train step, computed from layer shapes.

Counted are convolutions, dense layers, the channel attention's products and the Gram
matrices, a multiply-add as two operations; taps that fall on the zero padding do not
count (nor do they in XLA's own count). Bytes are those that cannot be avoided when
everything between two products is fused into them: each product reads its input and
weights and writes its output once.
"""

from collections.abc import Iterable
from typing import NamedTuple

from facecycle_jax.losses.cycle import few_pixels
from facecycle_jax.networks.blocks import scaled
from facecycle_jax.networks.generator import MEAN_SIDE
from facecycle_jax.networks.vgg import LAYERS


class Layer(NamedTuple):
    """One product, per image.

    Attributes:
      flops: floating-point operations of the forward pass.
      moved: elements of its input and its output.
      weights: elements of its weights.
    """

    flops: float
    moved: float
    weights: float


class Count(NamedTuple):
    """Totals of an update, or of inference, for a whole batch.

    Attributes:
      flops: floating-point operations.
      bytes: bytes to and from memory at least.
    """

    flops: float
    bytes: float


def _taps(size: int, kernel: int, stride: int, pad: int) -> int:
    """Pairs of an output and a tap inside the input, along one axis."""
    outputs = (size + 2 * pad - kernel) // stride + 1
    return sum(
        0 <= o * stride - pad + k < size for o in range(outputs) for k in range(kernel)
    )


def conv(
    size: int, incoming: int, outgoing: int, *, kernel: int = 3, stride: int = 1
) -> Layer:
    """Counts a convolution of a square map, padded by (kernel - 1) / 2.

    Args:
      size: rows and columns of the input.
      incoming: its channels.
      outgoing: channels of the output.
      kernel: taps along one axis.
      stride: step along one axis.

    Returns:
      The layer.
    """
    pad = (kernel - 1) // 2
    flops = 2 * _taps(size, kernel, stride, pad) ** 2 * incoming * outgoing
    after = (size + 2 * pad - kernel) // stride + 1
    return Layer(
        flops, size**2 * incoming + after**2 * outgoing, kernel**2 * incoming * outgoing
    )


def _upconv(size: int, incoming: int, outgoing: int) -> Layer:
    """Counts a transposed convolution of kernel 4, stride 2 and padding 1.

    It is the adjoint of a strided convolution.
    """
    flops = 2 * _taps(2 * size, 4, 2, 1) ** 2 * incoming * outgoing
    return Layer(flops, size**2 * (incoming + 4 * outgoing), 16 * incoming * outgoing)


def _attention(size: int, channels: int) -> list[Layer]:
    pixels = size**2
    product = Layer(2 * pixels * channels**2, 2 * pixels * channels + channels**2, 0)
    return [conv(size, channels, channels, kernel=1)] * 3 + [product] * 2


def _residuals(size: int, channels: int, count: int) -> list[Layer]:
    return [conv(size, channels, channels)] * (2 * count)


def encoder(size: int, width: float, code_dim: int = 256) -> list[Layer]:
    """Lists the layers of a code encoder for images of 64, 128 or 256 pixels."""
    c64, c128, c256, c512 = (scaled(c, width) for c in (64, 128, 256, 512))
    large = size >= 128
    layers = [conv(size, 3, c64, kernel=7, stride=2), conv(size // 2, c64, c64)]
    s = size // 2
    stride = 2 if size == 256 else 1
    layers += [conv(s, c64, c64, stride=stride)]
    s //= stride
    layers += [*_attention(s, c64), conv(s, c64, c64), conv(s, c64, c128, stride=2)]
    s //= 2
    layers += [*_attention(s, c128), conv(s, c128, c128), *_residuals(s, c128, 2)]
    layers += [conv(s, c128, c128, stride=2), conv(s // 2, c128, c128)]
    layers += [conv(s // 2, c128, c256, stride=2), conv(s // 4, c256, c256)]
    layers += [conv(s // 4, c256, c256, stride=2 if large else 1), conv(4, c256, c128)]
    return [
        *layers,
        conv(1, 16 * c128, c512, kernel=1),
        conv(1, c512, code_dim, kernel=1),
    ]


def flow_decoder(size: int, width: float, code_dim: int = 256) -> list[Layer]:
    """Lists the layers of the flow decoder."""
    c64, c128, c256 = (scaled(c, width) for c in (64, 128, 256))
    layers = [
        conv(1, code_dim, 16 * c256, kernel=1),
        *_attention(4, c256),
        conv(4, c256, c256),
    ]
    layers += [
        conv(8, c256, c128),
        *_attention(8, c128),
        conv(8, c128, c128),
        *_residuals(8, c128, 2),
    ]
    s = 16
    while s < size // 4:
        layers.append(conv(s, c128, c128))
        s *= 2
    return [*layers, conv(s, c128, c64), conv(s, c64, 2, kernel=1)]


def generator(
    size: int, width: float, *, flow: bool, noise: bool = False
) -> list[Layer]:
    """Lists the layers of one pass of the generator, without its trunk.

    Noise is added only where there is a flow.
    """
    half, full, s = scaled(128, width), scaled(256, width), size // 4
    layers = [
        conv(s, full, full),
        *_residuals(s, full, 8),
        _upconv(s, full, half),
        conv(2 * s, half, half),
    ]
    layers += [
        _upconv(2 * s, 2 * half, half),
        conv(size, half, half),
        conv(size, half, 3),
    ]
    if flow:
        # Without noise a small map stands for what is the same everywhere but at the
        # edges.
        coarse, fine = (
            (s, 2 * s) if noise else (min(s, MEAN_SIDE), min(2 * s, MEAN_SIDE))
        )
        layers += [conv(coarse, full, full)] * 2 + [conv(fine, half, half)] * 2
    return layers


def normaliser(size: int, width: float, code_dim: int = 256) -> list[Layer]:
    """Lists the layers of one direction of the normaliser, without its trunk."""
    half, full, s = scaled(128, width), scaled(256, width), size // 4
    layers = [conv(1, code_dim, full, kernel=1)] * 2 + _residuals(s, full, 7)
    layers += [
        _upconv(s, full, half),
        conv(2 * s, half, half),
        _upconv(2 * s, half, half),
    ]
    return [*layers, conv(size, half, 3, kernel=1)]


def vgg(size: int, width: float, last: str) -> list[Layer]:
    """Lists the layers of VGG-19 up to `last`."""
    layers, incoming = [], 3
    for name, channels, pool in LAYERS:
        size //= 2 if pool else 1
        layers.append(conv(size, incoming, scaled(channels, width)))
        incoming = scaled(channels, width)
        if name == last:
            break
    return layers


def gram(size: int, width: float) -> list[Layer]:
    """Lists the Gram matrices of the perceptual loss, or what replaces them."""
    shapes = (
        (size // 2, scaled(128, width)),
        (size // 4, scaled(256, width)),
        (size // 8, scaled(512, width)),
    )
    layers = []
    for pixels, channels in ((side**2, channels) for side, channels in shapes):
        if few_pixels(pixels=pixels, channels=channels):  # three products over pixels
            layers.append(
                Layer(
                    6 * pixels**2 * channels, 2 * pixels * channels + 3 * pixels**2, 0
                )
            )
        else:
            layers.append(
                Layer(2 * pixels * channels**2, pixels * channels + channels**2, 0)
            )
    return layers


# How often a product is computed: forward; and with the gradient of its input, of its
# weights, or both.
FORWARD, FROZEN, TRAINED = 1, 2, 3


def _passes(
    stage: str, *, size: int, width: float, shared: bool
) -> Iterable[tuple[str, list[Layer], int]]:
    """Yields (what, layers per image, passes) of one update.

    With `shared`, the maps of an image are computed once for the networks and the
    loss, as in this program. Without, every network call starts from images, as in the
    original program.
    """
    deep, shallow = vgg(size, width, "conv4_1"), vgg(size, width, "conv3_1")
    moved, still = (
        generator(size, width, flow=True, noise=True),
        generator(size, width, flow=False),
    )
    motion = [
        ("encoder", encoder(size, width)),
        ("flow decoder", flow_decoder(size, width)),
    ]
    if stage == "motion_cycle":
        yield from ((name, layers, TRAINED) for name, layers in motion)
        yield "generator", 2 * moved + still, TRAINED
        if shared:
            yield "VGG-19 of X", deep, FORWARD
        else:
            yield "VGG-19 of X", 2 * shallow + 4 * deep, FORWARD
            yield "VGG-19 of drawn faces", shallow, FROZEN
        yield "VGG-19 of drawn faces", 4 * deep, FROZEN
        yield "Gram matrices", 4 * gram(size, width), FROZEN
        yield "Gram matrices", (1 if shared else 4) * gram(size, width), FORWARD
        return
    yield from ((f"{name}, frozen", layers, FORWARD) for name, layers in motion)
    yield "generator, frozen", moved, FORWARD
    yield "generator, frozen", moved, FROZEN
    yield "encoder", encoder(size, width), TRAINED
    yield "normaliser", 2 * normaliser(size, width), TRAINED
    # The mean face is one image for the whole batch; where nothing is shared it is
    # computed for each.
    yield "VGG-19 of X", deep if shared else shallow + 2 * deep, FORWARD
    yield "VGG-19 of drawn faces", shallow, FORWARD
    yield "VGG-19 of drawn faces", (1 if shared else 2) * shallow + 2 * deep, FROZEN
    yield "Gram matrices", 2 * gram(size, width), FROZEN
    yield "Gram matrices", (1 if shared else 2) * gram(size, width), FORWARD


def parts(
    stage: str, *, batch: int, width: float = 1.0, size: int = 64, shared: bool = True
) -> dict[str, float]:
    """Counts the operations of one update by network.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      batch: pairs of images.
      width: multiplier on all channels, the VGG-19's included.
      size: side of the images, pixels.
      shared: as this program computes, each image's maps once; False: as the original
        program does.

    Returns:
      {network: floating-point operations}.
    """
    counted: dict[str, float] = {}
    for name, layers, passes in _passes(stage, size=size, width=width, shared=shared):
        flops = 2 * batch * passes * sum(layer.flops for layer in layers)
        counted[name] = counted.get(name, 0.0) + flops
    return counted


def train_step(
    stage: str,
    *,
    batch: int,
    width: float = 1.0,
    size: int = 64,
    shared: bool = True,
    item_bytes: int = 4,
) -> Count:
    """Counts one update.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      batch: pairs of images.
      width: multiplier on all channels.
      size: side of the images, pixels.
      shared: see `parts`.
      item_bytes: bytes of an activation; weights and Adam's moments are float32.

    Returns:
      Operations, and bytes of every product's activations and weights and of Adam's
      seven passes over the weights.
    """
    flops = sum(
        parts(stage, batch=batch, width=width, size=size, shared=shared).values()
    )
    moved = 0.0
    for _, layers, passes in _passes(stage, size=size, width=width, shared=shared):
        moved += passes * sum(
            2 * batch * item_bytes * layer.moved + 4 * layer.weights for layer in layers
        )
    trained = {
        "motion_cycle": [
            *encoder(size, width),
            *flow_decoder(size, width),
            *generator(size, width, flow=True),
        ],
        "identity_cycle": [*encoder(size, width), *normaliser(size, width)],
    }[stage]
    updated = 4 * 7 * sum(layer.weights for layer in trained)
    return Count(flops, moved + updated)


def inference(call: str, *, batch: int, width: float = 1.0, size: int = 64) -> Count:
    """Counts one call on the images of `batch` pairs.

    Args:
      call: 'motion_code', 'flow', 'neutral' or 'reconstruct'.
      batch: pairs of images.
      width: multiplier on all channels.
      size: side of the images, pixels.

    Returns:
      Operations, and bytes of every product's activations and weights.
    """
    layers = [*encoder(size, width)]
    if call != "motion_code":
        layers += flow_decoder(size, width)
    drawn = {"neutral": 1, "reconstruct": 2}.get(call, 0)
    draw = [*vgg(size, width, "conv3_1"), *generator(size, width, flow=True)]
    layers += drawn * draw

    flops = 2 * batch * sum(layer.flops for layer in layers)
    return Count(
        flops, sum(4 * (2 * batch * layer.moved + layer.weights) for layer in layers)
    )
