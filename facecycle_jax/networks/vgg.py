"""The VGG-19 trunk up to conv4_1, and its weights as a file.

Images are [N, H, W, 3], normalised. Maps are rectified, so 0 or more.
"""

import pathlib
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.errors import UserError
from facecycle_jax.networks.blocks import Dtype, scaled
from facecycle_jax.networks.npz_weights import read_npz_weights
from facecycle_jax.ops import max_pool

# Name, channels, and whether a pooling comes before, in order.
LAYERS = (
    ("conv1_1", 64, False),
    ("conv1_2", 64, False),
    ("conv2_1", 128, True),
    ("conv2_2", 128, False),
    ("conv3_1", 256, True),
    ("conv3_2", 256, False),
    ("conv3_3", 256, False),
    ("conv3_4", 256, False),
    ("conv4_1", 512, True),
)
# Taps of the generator and the normaliser.
TRUNK_TAPS = ("conv2_1", "conv3_1")
# Layers that the trunk of generator and normaliser consists of.
TRUNK_LAYERS = tuple(name for name, _, _ in LAYERS[:5])
# Taps of the perceptual loss.
LOSS_TAPS = ("conv2_1", "conv3_1", "conv4_1")


class VGG19(nn.Module):
    """VGG-19 from conv1_1 up to `last`.

    Each convolution is rectified; 2x2 max pooling separates the groups.

    Attributes:
      last: name of the last layer, one of `LAYERS`.
      width: multiplier on the channels; 1 for ImageNet weights.
      dtype: computation dtype.

    References:
      Simonyan and Zisserman, "Very deep convolutional networks", ICLR 2015,
      configuration E.
    """

    last: str = "conv4_1"
    width: float = 1.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, taps: tuple[str, ...] = LOSS_TAPS
    ) -> dict[str, jax.Array]:
        """Computes rectified maps.

        Args:
          x: [N, H, W, 3], normalised.
          taps: layers whose outputs are returned; computation stops after the last of
            them.

        Returns:
          {name: [N, h, w, C]} for every tap.

        Raises:
          UserError: if a tap lies beyond `last` or is not a layer.
        """
        names = [name for name, _, _ in LAYERS]
        reachable = names[: names.index(self.last) + 1]
        unknown = [tap for tap in taps if tap not in reachable]
        if unknown:
            raise UserError(f"VGG19 up to {self.last} has no layer {unknown[0]!r}.")

        # During initialisation all layers are built, whatever the taps.
        end = self.last if self.is_initializing() else max(taps, key=names.index)

        x = x.astype(self.dtype)
        outputs = {}
        for name, channels, pool in LAYERS:
            if pool:
                x = max_pool(x)

            convolution = nn.Conv(
                scaled(channels, self.width),
                (3, 3),
                padding=((1, 1), (1, 1)),
                dtype=self.dtype,
                kernel_init=nn.initializers.he_normal(),
                name=name,
            )
            x = nn.relu(convolution(x))

            if name in taps:
                outputs[name] = x
            if name == end:
                break
        return outputs


def read_vgg_npz(path: str | pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
    """Reads VGG-19 weights from a .npz.

    The file holds `convB_L/kernel` [3, 3, in, out] and `convB_L/bias` [out] for group B
    and layer L, as `facecycle import-vgg` writes them.

    Args:
      path: the file; any floating dtype.

    Returns:
      {layer: {'kernel', 'bias'}} in float32 for conv1_1 .. conv4_1: the parameters of
      `VGG19()`.

    Raises:
      FileNotFoundError: if there is no such file; the message says how to make it.
      UserError: if the file is not a .npz, or an array is missing, misshapen or not
        finite.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"No VGG-19 weights at {path}: download vgg19-dcbb9e9d.pth (torchvision) "
            "or Keras's VGG19 notop .h5, convert with "
            f"`facecycle import-vgg FILE --out {path}`, or set "
            "config.loss.vgg='random'."
        )

    shapes: dict[str, tuple[int, ...]] = {}
    incoming = 3
    for name, channels, _ in LAYERS:
        shapes[f"{name}/kernel"] = (3, 3, incoming, channels)
        shapes[f"{name}/bias"] = (channels,)
        incoming = channels
    arrays = read_npz_weights(path, shapes, network="VGG-19")

    return dict(flax.traverse_util.unflatten_dict(arrays, sep="/"))


def random_vgg(*, width: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """Initialises VGG-19 weights at random (He initialisation).

    A seed gives the same weights on every machine. Random features still compare
    textures. They are a substitute where ImageNet weights are not available.

    Args:
      width: multiplier on the channels.
      seed: seed of the weights.

    Returns:
      The parameters of `VGG19(width=width)`.
    """
    model = VGG19(width=width)
    return model.init(jax.random.key(seed), jnp.zeros((1, 16, 16, 3)))["params"]
