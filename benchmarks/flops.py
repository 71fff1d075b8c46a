"""Floating-point operations and bytes of a train step, computed from layer shapes.

Operations are those of convolutions, dense layers, the channel attention's products and
the Gram matrices. A multiply-add counts as two. Taps that fall on the zero padding do
not count, as in XLA's own count.

Bytes are those that remain if everything between two products is fused into them. Then
each product reads its input and its weights once, and writes its output once.
"""

from collections.abc import Iterator
from typing import NamedTuple

from facecycle_jax.losses.cycle import few_pixels
from facecycle_jax.networks.blocks import scaled
from facecycle_jax.networks.generator import MEAN_SIDE
from facecycle_jax.networks.vgg import LAYERS

# How often an update computes a product: once without a gradient, twice with the
# gradient of its input, three times with that of its weights too.
FORWARD, FROZEN, TRAINED = 1, 2, 3


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
      bytes: least number of bytes to and from memory.
    """

    flops: float
    bytes: float


class Part(NamedTuple):
    """Layers of one network that an update computes equally often.

    Attributes:
      network: label of the network.
      layers: its layers, for one image.
      passes: FORWARD, FROZEN or TRAINED.
    """

    network: str
    layers: list[Layer]
    passes: int


def conv(
    size: int, incoming: int, outgoing: int, *, kernel: int = 3, stride: int = 1
) -> Layer:
    """Counts a convolution of a square map, padded by (kernel - 1) // 2.

    Args:
      size: rows and columns of the input.
      incoming: channels of the input.
      outgoing: channels of the output.
      kernel: taps along one axis.
      stride: step along one axis.

    Returns:
      The layer.
    """
    pad = (kernel - 1) // 2
    size_after = (size + 2 * pad - kernel) // stride + 1
    return Layer(
        flops=2 * _taps(size, kernel, stride, pad) ** 2 * incoming * outgoing,
        moved=size**2 * incoming + size_after**2 * outgoing,
        weights=kernel**2 * incoming * outgoing,
    )


def _taps(size: int, kernel: int, stride: int, pad: int) -> int:
    """Counts the pairs of an output and a tap inside the input, along one axis."""
    outputs = (size + 2 * pad - kernel) // stride + 1
    inside = 0
    for output in range(outputs):
        for tap in range(kernel):
            inside += 0 <= output * stride - pad + tap < size
    return inside


def _upconv(size: int, incoming: int, outgoing: int) -> Layer:
    """Counts a transposed convolution of kernel 4, stride 2 and padding 1.

    It has the operations of its adjoint, a strided convolution of the larger map.
    """
    return Layer(
        flops=2 * _taps(2 * size, 4, 2, 1) ** 2 * incoming * outgoing,
        moved=size**2 * (incoming + 4 * outgoing),
        weights=16 * incoming * outgoing,
    )


def _dense(incoming: int, outgoing: int) -> Layer:
    """Counts a dense layer, which is a convolution of a single pixel."""
    return conv(1, incoming, outgoing, kernel=1)


def _attention(size: int, channels: int) -> list[Layer]:
    """Lists the layers of a channel attention: three projections and two products."""
    pixels = size**2
    product = Layer(
        flops=2 * pixels * channels**2,
        moved=2 * pixels * channels + channels**2,
        weights=0,
    )
    return [conv(size, channels, channels, kernel=1)] * 3 + [product] * 2


def _residuals(size: int, channels: int, count: int) -> list[Layer]:
    """Lists the layers of residual blocks, two convolutions each."""
    return [conv(size, channels, channels)] * (2 * count)


def encoder(size: int, width: float, code_dim: int = 256) -> list[Layer]:
    """Lists the layers of a code encoder.

    Args:
      size: side of the images: 64, 128 or 256 pixels.
      width: multiplier on all channels.
      code_dim: length of the code.

    Returns:
      The layers.
    """
    c64, c128, c256, c512 = (scaled(c, width) for c in (64, 128, 256, 512))

    # Images of 256 pixels are halved once more at the start.
    side = size // 2
    stride = 2 if size == 256 else 1
    layers = [
        conv(size, 3, c64, kernel=7, stride=2),
        conv(side, c64, c64),
        conv(side, c64, c64, stride=stride),
    ]

    side //= stride
    layers += [
        *_attention(side, c64),
        conv(side, c64, c64),
        conv(side, c64, c128, stride=2),
    ]

    side //= 2
    layers += [
        *_attention(side, c128),
        conv(side, c128, c128),
        *_residuals(side, c128, 2),
        conv(side, c128, c128, stride=2),
        conv(side // 2, c128, c128),
        conv(side // 2, c128, c256, stride=2),
        conv(side // 4, c256, c256),
    ]

    # The last map has 4 x 4 pixels at every size.
    stride = 2 if size >= 128 else 1
    layers += [
        conv(side // 4, c256, c256, stride=stride),
        conv(4, c256, c128),
        _dense(16 * c128, c512),
        _dense(c512, code_dim),
    ]
    return layers


def flow_decoder(size: int, width: float, code_dim: int = 256) -> list[Layer]:
    """Lists the layers of the flow decoder.

    Args:
      size: side of the images in pixels; that of the flow is a quarter of it.
      width: multiplier on all channels.
      code_dim: length of the code.

    Returns:
      The layers.
    """
    c64, c128, c256 = (scaled(c, width) for c in (64, 128, 256))
    layers = [
        _dense(code_dim, 16 * c256),
        *_attention(4, c256),
        conv(4, c256, c256),
        conv(8, c256, c128),
        *_attention(8, c128),
        conv(8, c128, c128),
        *_residuals(8, c128, 2),
    ]

    side = 16
    while side < size // 4:
        layers.append(conv(side, c128, c128))
        side *= 2
    return [*layers, conv(side, c128, c64), conv(side, c64, 2, kernel=1)]


def generator(
    size: int, width: float, *, flow: bool, noise: bool = False
) -> list[Layer]:
    """Lists the layers of one pass of the generator, without its trunk.

    Args:
      size: side of the images in pixels.
      width: multiplier on all channels.
      flow: whether its maps are warped.
      noise: whether noise is added where a warp uncovers areas; only with a flow.

    Returns:
      The layers.
    """
    half = scaled(128, width)
    full = scaled(256, width)
    side = size // 4
    layers = [
        conv(side, full, full),
        *_residuals(side, full, 8),
        _upconv(side, full, half),
        conv(2 * side, half, half),
        _upconv(2 * side, 2 * half, half),
        conv(size, half, half),
        conv(size, half, 3),
    ]
    if not flow:
        return layers

    # Without noise, the content of uncovered areas is constant except at the edges, and
    # is computed on a small map.
    coarse = side
    fine = 2 * side
    if not noise:
        coarse = min(coarse, MEAN_SIDE)
        fine = min(fine, MEAN_SIDE)
    return layers + [conv(coarse, full, full)] * 2 + [conv(fine, half, half)] * 2


def normaliser(size: int, width: float, code_dim: int = 256) -> list[Layer]:
    """Lists the layers of one direction of the normaliser, without its trunk.

    Args:
      size: side of the images in pixels.
      width: multiplier on all channels.
      code_dim: length of the code.

    Returns:
      The layers.
    """
    half = scaled(128, width)
    full = scaled(256, width)
    side = size // 4
    return [
        _dense(code_dim, full),
        _dense(code_dim, full),
        *_residuals(side, full, 7),
        _upconv(side, full, half),
        conv(2 * side, half, half),
        _upconv(2 * side, half, half),
        conv(size, half, 3, kernel=1),
    ]


def vgg(size: int, width: float, last: str) -> list[Layer]:
    """Lists the layers of VGG-19.

    Args:
      size: side of the images in pixels.
      width: multiplier on all channels.
      last: name of the last layer, e.g. 'conv4_1'.

    Returns:
      The layers.
    """
    layers = []
    incoming = 3
    for name, channels, pool in LAYERS:
        if pool:
            size //= 2
        outgoing = scaled(channels, width)
        layers.append(conv(size, incoming, outgoing))
        incoming = outgoing
        if name == last:
            break
    return layers


def gram(size: int, width: float) -> list[Layer]:
    """Lists the Gram matrices of the perceptual loss, or what replaces them.

    Args:
      size: side of the images in pixels.
      width: multiplier on all channels.

    Returns:
      One product for each of three maps of VGG-19.
    """
    layers = []
    for divisor, channels in ((2, 128), (4, 256), (8, 512)):
        pixels = (size // divisor) ** 2
        channels = scaled(channels, width)
        if few_pixels(pixels=pixels, channels=channels):
            # Three products over pixels in place of one over channels.
            layer = Layer(
                flops=6 * pixels**2 * channels,
                moved=2 * pixels * channels + 3 * pixels**2,
                weights=0,
            )
        else:
            layer = Layer(
                flops=2 * pixels * channels**2,
                moved=pixels * channels + channels**2,
                weights=0,
            )
        layers.append(layer)
    return layers


def _parts(stage: str, *, size: int, width: float, shared: bool) -> Iterator[Part]:
    """Yields the parts of one update of a stage; see `parts` for `shared`."""
    if stage == "motion_cycle":
        return _motion_parts(size, width, shared)
    return _identity_parts(size, width, shared)


def _motion_parts(size: int, width: float, shared: bool) -> Iterator[Part]:
    """Yields the parts of one update of stage 1."""
    shallow = vgg(size, width, "conv3_1")
    deep = vgg(size, width, "conv4_1")
    warped = generator(size, width, flow=True, noise=True)
    plain = generator(size, width, flow=False)

    yield Part("encoder", encoder(size, width), TRAINED)
    yield Part("flow decoder", flow_decoder(size, width), TRAINED)
    # Neutral face, reconstruction and autoencoded image.
    yield Part("generator", 2 * warped + plain, TRAINED)

    # The generator starts from the maps of `shallow`, the loss compares those of
    # `deep`: four images with X.
    if shared:
        yield Part("VGG-19 of X", deep, FORWARD)
    else:
        yield Part("VGG-19 of X", 2 * shallow + 4 * deep, FORWARD)
        yield Part("VGG-19 of generated faces", shallow, FROZEN)
    yield Part("VGG-19 of generated faces", 4 * deep, FROZEN)

    targets = 1 if shared else 4
    yield Part("Gram matrices", 4 * gram(size, width), FROZEN)
    yield Part("Gram matrices", targets * gram(size, width), FORWARD)


def _identity_parts(size: int, width: float, shared: bool) -> Iterator[Part]:
    """Yields the parts of one update of stage 2."""
    shallow = vgg(size, width, "conv3_1")
    deep = vgg(size, width, "conv4_1")
    warped = generator(size, width, flow=True, noise=True)

    # The networks of stage 1 are frozen. They draw the neutral face and the
    # reconstruction.
    yield Part("encoder, frozen", encoder(size, width), FORWARD)
    yield Part("flow decoder, frozen", flow_decoder(size, width), FORWARD)
    yield Part("generator, frozen", warped, FORWARD)
    yield Part("generator, frozen", warped, FROZEN)

    yield Part("encoder", encoder(size, width), TRAINED)
    yield Part("normaliser", 2 * normaliser(size, width), TRAINED)

    # The loss compares two images with X.
    if shared:
        yield Part("VGG-19 of X", deep, FORWARD)
    else:
        yield Part("VGG-19 of X", shallow + 2 * deep, FORWARD)

    # Maps of the neutral face, of the restored one and, where nothing is shared, of the
    # mean face, which is otherwise one image for the whole batch.
    differentiated = 1 if shared else 2
    yield Part("VGG-19 of generated faces", shallow, FORWARD)
    yield Part("VGG-19 of generated faces", differentiated * shallow + 2 * deep, FROZEN)

    targets = 1 if shared else 2
    yield Part("Gram matrices", 2 * gram(size, width), FROZEN)
    yield Part("Gram matrices", targets * gram(size, width), FORWARD)


def parts(
    stage: str, *, batch: int, width: float = 1.0, size: int = 64, shared: bool = True
) -> dict[str, float]:
    """Counts the operations of one update by network.

    Args:
      stage: 'motion_cycle' or 'identity_cycle'.
      batch: pairs of images.
      width: multiplier on all channels, the VGG-19's included.
      size: side of the images in pixels.
      shared: whether the maps of an image are computed once for all networks and the
        loss, as in this program. Otherwise every call of a network starts from images,
        as in the original program.

    Returns:
      {network: floating-point operations}.
    """
    counted: dict[str, float] = {}
    for part in _parts(stage, size=size, width=width, shared=shared):
        of_image = part.passes * sum(layer.flops for layer in part.layers)
        flops = 2 * batch * of_image
        counted[part.network] = counted.get(part.network, 0.0) + flops
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
      size: side of the images in pixels.
      shared: see `parts`.
      item_bytes: bytes of an activation; weights and Adam's moments are float32.

    Returns:
      Operations, and bytes of every product's activations and weights and of Adam's
      seven passes over the weights.
    """
    counted = parts(stage, batch=batch, width=width, size=size, shared=shared)

    moved = 0.0
    for part in _parts(stage, size=size, width=width, shared=shared):
        for layer in part.layers:
            activations = 2 * batch * item_bytes * layer.moved
            moved += part.passes * (activations + 4 * layer.weights)

    trained = encoder(size, width)
    if stage == "motion_cycle":
        trained += flow_decoder(size, width) + generator(size, width, flow=True)
    else:
        trained += normaliser(size, width)
    # Adam reads gradient, weight and both moments, and writes the last three.
    updated = 7 * 4 * sum(layer.weights for layer in trained)
    return Count(flops=sum(counted.values()), bytes=moved + updated)


def inference(call: str, *, batch: int, width: float = 1.0, size: int = 64) -> Count:
    """Counts one call on the images of `batch` pairs.

    Args:
      call: 'motion_code', 'flow', 'neutral' or 'reconstruct'.
      batch: pairs of images.
      width: multiplier on all channels.
      size: side of the images in pixels.

    Returns:
      Operations, and bytes of every product's activations and weights in float32.
    """
    layers = encoder(size, width)
    if call != "motion_code":
        layers += flow_decoder(size, width)

    # A reconstruction is drawn from the neutral face.
    drawn = {"neutral": 1, "reconstruct": 2}.get(call, 0)
    for _ in range(drawn):
        layers += vgg(size, width, "conv3_1")
        layers += generator(size, width, flow=True)

    flops = 2 * batch * sum(layer.flops for layer in layers)
    moved = sum(4 * (2 * batch * layer.moved + layer.weights) for layer in layers)
    return Count(flops=flops, bytes=moved)
