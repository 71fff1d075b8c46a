"""The network of temporal consistency: ResNet-18, a dense layer, unit length.

Images [N, H, W, 3], normalised by ImageNet's mean and standard deviation.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.errors import UserError
from facecycle_jax.networks.batch_norm import BatchNorm, Dense
from facecycle_jax.networks.blocks import Dtype, conv, scaled
from facecycle_jax.networks.npz_weights import npz_names, read_npz_weights
from facecycle_jax.ops import unit_length

_STAGES = (64, 128, 256, 512)
_BLOCKS = 2
# A normalisation's arrays, by PyTorch's names.
_NORM_FIELDS = ("weight", "bias", "running_mean", "running_var")


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut.

    The shortcut is projected where the shape changes.

    Attributes:
      features: output channels.
      stride: stride of the first convolution.
      dtype: computation dtype.
    """

    features: int
    stride: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to [N, H / stride, W / stride, features]."""

        def layer(x: jax.Array, name: str, *, kernel: int, stride: int) -> jax.Array:
            x = conv(
                x,
                features=self.features,
                kernel=kernel,
                stride=stride,
                name=f"{name}_conv",
                dtype=self.dtype,
                use_bias=False,
            )
            return BatchNorm(self.dtype, name=f"{name}_norm")(x, train=train)

        y = nn.relu(layer(x, "first", kernel=3, stride=self.stride))
        y = layer(y, "second", kernel=3, stride=1)

        shortcut = x
        if self.stride > 1 or x.shape[-1] != self.features:
            shortcut = layer(x, "shortcut", kernel=1, stride=self.stride)
        return nn.relu(y + shortcut)


class TemporalEncoder(nn.Module):
    """Encodes faces into vectors of unit length.

    Attributes:
      width: multiplier on the channels of the trunk; 1 is the published network (11.3 M
        parameters).
      code_dim: length of the embedding.
      dtype: computation dtype.

    References:
      He et al., "Deep residual learning for image recognition", CVPR 2016, table 1; Lu
      et al., "Self-supervised learning for facial action unit recognition through
      temporal consistency", BMVC 2020.
    """

    width: float = 1.0
    code_dim: int = 256
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, maps: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Encodes images.

        Args:
          images: [N, H, W, 3], normalised, 256 x 256 as published.
          train: whether batch statistics are used and the running ones moved.
          maps: whether to return the map below the pooling in place of what is pooled.

        Returns:
          Embeddings [N, code_dim] of unit length, float32 at least, and pooled features
          [N, 512 width] or maps [N, H/32, W/32, 512 width].
        """
        x = conv(
            images.astype(self.dtype),
            features=scaled(64, self.width),
            kernel=7,
            stride=2,
            name="stem_conv",
            dtype=self.dtype,
            use_bias=False,
        )
        x = nn.relu(BatchNorm(self.dtype, name="stem_norm")(x, train=train))
        # The padding is minus infinity, so it never is the maximum.
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

        for stage, channels in enumerate(_STAGES, start=1):
            for block in range(1, _BLOCKS + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                module = _BasicBlock(
                    scaled(channels, self.width),
                    stride,
                    self.dtype,
                    name=f"stage{stage}_block{block}",
                )
                x = module(x, train=train)

        pooled = jnp.mean(x, axis=(1, 2))
        embedding = Dense(self.code_dim, self.dtype, name="code")(pooled)
        return unit_length(embedding), x if maps else pooled


def resnet18_trees(
    state: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Converts torchvision's ResNet-18 to parameter trees of `TemporalEncoder`.

    Its last layer is left out.

    Args:
      state: arrays by torchvision's names ('conv1.weight', 'layer1.0.bn1.running_mean',
        ...), in its layout.

    Returns:
      Parameters and running statistics; 'code' is in neither.

    Raises:
      KeyError: if an array is missing.
    """
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    for layer in _resnet18_layers():
        block_params = params
        block_stats = stats
        for part in layer.path:
            block_params = block_params.setdefault(part, {})
            block_stats = block_stats.setdefault(part, {})

        # From PyTorch's [out, in, kh, kw] to [kh, kw, in, out].
        kernel = np.asarray(state[f"{layer.conv}.weight"], np.float32)
        block_params[f"{layer.name}_conv"] = {"kernel": kernel.transpose(2, 3, 1, 0)}

        norm = {}
        for field in _NORM_FIELDS:
            norm[field] = np.asarray(state[f"{layer.norm}.{field}"], np.float32)
        block_params[f"{layer.name}_norm"] = {
            "scale": norm["weight"],
            "bias": norm["bias"],
        }
        block_stats[f"{layer.name}_norm"] = {
            "mean": norm["running_mean"],
            "var": norm["running_var"],
        }
    return params, stats


def read_resnet18_npz(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads ResNet-18 from a .npz of torchvision's state dict.

    The arrays have their names in that state dict.

    Args:
      path: the file.

    Returns:
      See `resnet18_trees`.

    Raises:
      FileNotFoundError: if there is no such file.
      UserError: if the file is not a .npz, or is of another network, or an array is
        missing, misshapen or not finite.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"no ResNet-18 at {path}: save torchvision's state dict there with "
            "numpy.savez, arrays by their names, or set loss.resnet='random'."
        )

    shapes: dict[str, tuple[int, ...]] = {}
    for layer in _resnet18_layers():
        shapes[f"{layer.conv}.weight"] = layer.shape
        for field in _NORM_FIELDS:
            shapes[f"{layer.norm}.{field}"] = layer.shape[:1]
    arrays = read_npz_weights(file, shapes, network="torchvision's ResNet-18")

    # ResNet-34 has the same arrays, and more blocks.
    for name in npz_names(file):
        ignored = name.startswith("fc.") or name.endswith(".num_batches_tracked")
        if name not in shapes and not ignored:
            raise UserError(f"{path} is not a ResNet-18, which has no array {name!r}.")
    return resnet18_trees(arrays)


class _Layer(NamedTuple):
    """A convolution and its normalisation, by torchvision's names and by ours.

    Attributes:
      conv: of the convolution, torchvision's.
      norm: of the normalisation, torchvision's.
      path: modules of `TemporalEncoder` around it.
      name: ours, without '_conv' or '_norm'.
      shape: of the kernel, [out, in, kh, kw].
    """

    conv: str
    norm: str
    path: tuple[str, ...]
    name: str
    shape: tuple[int, ...]


def _resnet18_layers() -> Iterator[_Layer]:
    """Lists the layers below the last one, in order."""
    incoming = _STAGES[0]
    yield _Layer(
        conv="conv1", norm="bn1", path=(), name="stem", shape=(incoming, 3, 7, 7)
    )

    for stage, channels in enumerate(_STAGES, start=1):
        for block in range(_BLOCKS):
            layers = [
                ("conv1", "bn1", "first", (channels, incoming, 3, 3)),
                ("conv2", "bn2", "second", (channels, channels, 3, 3)),
            ]
            # Only blocks that change the shape project their shortcut.
            if channels != incoming:
                shape = (channels, incoming, 1, 1)
                layers.append(("downsample.0", "downsample.1", "shortcut", shape))

            for conv_name, norm_name, name, shape in layers:
                yield _Layer(
                    conv=f"layer{stage}.{block}.{conv_name}",
                    norm=f"layer{stage}.{block}.{norm_name}",
                    path=(f"stage{stage}_block{block + 1}",),
                    name=name,
                    shape=shape,
                )
            incoming = channels
