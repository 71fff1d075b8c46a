"""The forward passes of FaceCycle as pure functions of one dict of parameter trees.

Trees by name: motion_encoder, flow_decoder, generator, identity_encoder, normaliser,
and the trunk: 'trunk' if it is learned, else 'vgg'. Pictures [N, H, W, 3], normalised.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError
from facecycle_jax.networks.build import DTYPES, Networks, build_networks
from facecycle_jax.networks.encoder import LAYERS
from facecycle_jax.networks.vgg import LOSS_TAPS, TRUNK_TAPS, VGG19
from facecycle_jax.ops import backward_flow

# Parameter trees by network name; `Tree` where they are built, `Trees` where they are
# only read.
Tree = dict[str, Any]
Trees = Mapping[str, Any]
Features = dict[str, jax.Array]


class FaceFeatures(NamedTuple):
    """Maps of one batch for the networks and for the loss.

    One pass where both use one trunk.

    Attributes:
      trunk: conv2_1 and conv3_1 maps for generator and normaliser.
      loss: maps for the perceptual loss; empty where none were asked for.
    """

    trunk: Features
    loss: Features


class FaceNetworks(NamedTuple):
    """Networks with their trunk.

    Everything a method or a loaded model computes pictures with.

    Attributes:
      networks: the modules.
      vgg: the VGG-19 module of loss and, unless learned, trunk; None where no VGG is
        used.
      learned_trunk: whether the trunk's parameters are 'trunk' (learned) or 'vgg'
        (frozen).
      remat: whether a backward pass computes the activations inside each network again
        instead of keeping them: less memory, a third more computation.
    """

    networks: Networks
    vgg: VGG19 | None
    learned_trunk: bool
    remat: bool = False

    def motion(
        self, trees: Trees, images: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Computes motion codes [N, D], flows and backward flows [N, h, w, 2] of pictures."""
        code = self.motion_code(trees, images)
        flow = self.flow(trees, code)
        return code, flow, backward_flow(flow)

    def motion_code(self, trees: Trees, images: jax.Array) -> jax.Array:
        """Computes motion codes [N, D]."""
        return self._apply(self.networks.encoder, trees["motion_encoder"], images)

    def flow(self, trees: Trees, code: jax.Array) -> jax.Array:
        """Computes the flows [N, h, w, 2] of motion codes."""
        return self._apply(self.networks.flow_decoder, trees["flow_decoder"], code)

    def feature_map(
        self, trees: Trees, images: jax.Array, *, layer: str = LAYERS[-1], side: int = 0
    ) -> jax.Array:
        """Computes maps [N, h, w, C] of a layer of the motion encoder, of pictures of any size.

        `side` above 0 averages them over side x side areas.
        """
        encoder, options = self.networks.encoder, {"layer": layer, "side": side}
        return self._apply(
            encoder, trees["motion_encoder"], images, method="feature_map", **options
        )

    def identity_code(self, trees: Trees, images: jax.Array) -> jax.Array:
        """Computes identity codes [N, D]."""
        return self._apply(self.networks.encoder, trees["identity_encoder"], images)

    def features(
        self, trees: Trees, images: jax.Array, *, for_loss: bool = False
    ) -> FaceFeatures:
        """Computes trunk maps of pictures and, if asked for, the maps of the perceptual loss."""
        if not self.learned_trunk:
            maps = self._vgg_maps(trees, images, LOSS_TAPS if for_loss else TRUNK_TAPS)
            return FaceFeatures(
                {name: maps[name] for name in TRUNK_TAPS}, maps if for_loss else {}
            )
        trunk = self._apply(
            self.networks.trunk, trees["trunk"], images, taps=TRUNK_TAPS
        )
        return FaceFeatures(
            trunk, self.loss_features(trees, images) if for_loss else {}
        )

    def loss_features(self, trees: Trees, images: jax.Array) -> Features:
        """Computes the maps of the perceptual loss; none where no VGG is used."""
        return {} if self.vgg is None else self._vgg_maps(trees, images, LOSS_TAPS)

    def draw(
        self,
        trees: Trees,
        features: FaceFeatures,
        flow: jax.Array | None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Draws pictures [N, H, W, 3] from trunk maps, moved by a flow or as they are."""
        return self._apply(
            self.networks.generator, trees["generator"], features.trunk, flow, key=key
        )

    def remove_identity(
        self, trees: Trees, features: FaceFeatures, code: jax.Array
    ) -> jax.Array:
        """Draws mean faces [N, H, W, 3] from the maps of neutral faces and identity codes."""
        maps = features.trunk["conv3_1"]
        return self._apply(
            self.networks.normaliser, trees["normaliser"], maps, code, method="remove"
        )

    def restore_identity(
        self, trees: Trees, features: FaceFeatures, code: jax.Array
    ) -> jax.Array:
        """Draws neutral faces [N, H, W, 3] from the maps of mean faces [N or 1] and codes."""
        maps = features.trunk["conv3_1"]
        return self._apply(
            self.networks.normaliser, trees["normaliser"], maps, code, method="restore"
        )

    def _apply(self, module: Any, params: Any, *arguments: Any, **options: Any) -> Any:
        """Applies a module to its parameters."""

        def apply(params: Any, arguments: Any) -> Any:
            return module.apply({"params": params}, *arguments, **options)

        return (jax.checkpoint(apply) if self.remat else apply)(params, arguments)

    def _vgg_maps(
        self, trees: Trees, images: jax.Array, taps: tuple[str, ...]
    ) -> Features:
        if self.vgg is None:
            raise UserError(
                "these networks were built without a VGG-19, so it has no maps."
            )
        return self._apply(self.vgg, trees["vgg"], images, taps=taps)


def make_face_networks(
    model: Mapping[str, Any],
    *,
    vgg_width: float | None = None,
    vgg_for_loss: bool = True,
    remat: bool = False,
) -> FaceNetworks:
    """Builds the forward passes of a model configuration.

    Args:
      model: mapping with width, image_size, code_dim, dtype, trunk ('vgg' or 'learned')
        and perhaps encoder_width.
      vgg_width: channel multiplier of the VGG-19; None takes 1.
      vgg_for_loss: whether a VGG-19 is there for the loss when the trunk is learned.
      remat: see `FaceNetworks`.

    Returns:
      The forward passes.

    Raises:
      ValueError: for values out of range.
    """
    if model["trunk"] not in ("vgg", "learned"):
        raise UserError(
            f"model.trunk must be 'vgg' or 'learned', got {model['trunk']!r}."
        )
    networks = build_networks(
        width=model["width"],
        image_size=model["image_size"],
        code_dim=model["code_dim"],
        encoder_width=model.get("encoder_width", 0.0),
        dtype=model["dtype"],
    )
    learned = model["trunk"] == "learned"
    vgg = None
    if not learned or vgg_for_loss:
        vgg = VGG19("conv4_1", vgg_width or 1.0, DTYPES[model["dtype"]])
    return FaceNetworks(networks, vgg, learned, remat)


def init_motion(forward: FaceNetworks, key: jax.Array) -> dict[str, Any]:
    """Draws the parameters of stage 1.

    Motion_encoder, flow_decoder, generator and a learned trunk.
    """
    keys = jax.random.split(key, 4)
    networks = forward.networks
    size = networks.encoder.image_size
    image, code = (
        jnp.zeros((1, size, size, 3)),
        jnp.zeros((1, networks.encoder.code_dim)),
    )
    flow = jnp.zeros((1, size // 4, size // 4, 2))
    features = _blank_features(forward)
    trees = {
        "motion_encoder": networks.encoder.init(keys[0], image)["params"],
        "flow_decoder": networks.flow_decoder.init(keys[1], code)["params"],
        "generator": networks.generator.init(keys[2], features, flow)["params"],
    }
    if forward.learned_trunk:
        trees["trunk"] = networks.trunk.init(keys[3], image, taps=TRUNK_TAPS)["params"]
    return trees


def init_identity(forward: FaceNetworks, key: jax.Array) -> dict[str, Any]:
    """Draws the parameters of stage 2: identity_encoder and normaliser."""
    keys = jax.random.split(key, 2)
    networks = forward.networks
    size = networks.encoder.image_size
    code = jnp.zeros((1, networks.encoder.code_dim))
    features = _blank_features(forward)["conv3_1"]
    return {
        "identity_encoder": networks.encoder.init(
            keys[0], jnp.zeros((1, size, size, 3))
        )["params"],
        "normaliser": networks.normaliser.init(keys[1], features, code)["params"],
    }


def _blank_features(forward: FaceNetworks) -> Features:
    """Zero maps of the trunk's shapes, to initialise from."""
    trunk: Any = forward.networks.trunk if forward.learned_trunk else forward.vgg
    size = forward.networks.encoder.image_size
    key, image = jax.random.key(0), jnp.zeros((1, size, size, 3))
    shapes = jax.eval_shape(
        lambda: trunk.init_with_output(key, image, taps=TRUNK_TAPS)[0]
    )
    return {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
