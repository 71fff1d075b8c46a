"""The forward passes of FaceCycle as pure functions of one dict of parameter trees.

The trees are motion_encoder, flow_decoder, generator, identity_encoder, normaliser and
the trunk, which is 'trunk' if it is learned, else 'vgg'. Images are [N, H, W, 3],
normalised.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError
from facecycle_jax.networks.build import FaceModules, build_modules, computation_dtype
from facecycle_jax.networks.encoder import LAYERS
from facecycle_jax.networks.generator import IMAGE_CHANNELS
from facecycle_jax.networks.vgg import LOSS_TAPS, TRUNK_TAPS, VGG19
from facecycle_jax.ops import backward_flow, space_to_depth

# Parameter trees by network name. `Tree` is for building them, `Trees` for reading.
Tree = dict[str, Any]
Trees = Mapping[str, Any]
Features = dict[str, jax.Array]


class FaceFeatures(NamedTuple):
    """Maps of one batch for the networks and for the loss.

    One pass makes both where they use the same trunk.

    Attributes:
      trunk: conv2_1 and conv3_1 maps for generator and normaliser. If the generator
        adds to images (`image_skip`), the last 12 channels of conv2_1 are the image,
        each 2 x 2 pixels packed into one place.
      loss: maps for the perceptual loss; empty unless requested.
    """

    trunk: Features
    loss: Features


class FaceNetworks(NamedTuple):
    """The networks of FaceCycle with their trunk, and their forward passes.

    Attributes:
      modules: the Linen modules.
      vgg: the VGG-19 of the loss and, unless that is learned, of the trunk. None where
        no VGG is used.
      learned_trunk: whether the trunk's parameters are 'trunk' (learned) or 'vgg'
        (frozen).
      remat: whether a backward pass computes the activations inside each network again
        instead of keeping them. This saves memory for a third more computation.
    """

    modules: FaceModules
    vgg: VGG19 | None
    learned_trunk: bool
    remat: bool = False

    def motion(
        self, trees: Trees, images: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Computes motion codes [N, D], flows and backward flows [N, h, w, 2]."""
        code = self.motion_code(trees, images)
        flow = self.flow(trees, code)
        return code, flow, backward_flow(flow)

    def motion_code(self, trees: Trees, images: jax.Array) -> jax.Array:
        """Computes motion codes [N, D]."""
        return self._apply(self.modules.encoder, trees["motion_encoder"], images)

    def flow(self, trees: Trees, code: jax.Array) -> jax.Array:
        """Computes the flows [N, h, w, 2] of motion codes."""
        return self._apply(self.modules.flow_decoder, trees["flow_decoder"], code)

    def feature_map(
        self, trees: Trees, images: jax.Array, *, layer: str = LAYERS[-1], side: int = 0
    ) -> jax.Array:
        """Computes maps [N, h, w, C] of a layer of the motion encoder.

        Images may have any size. `side` above 0 averages the maps over side x side
        areas. `layer` may name several, see `CodeEncoder.feature_map`.
        """
        return self._apply(
            self.modules.encoder,
            trees["motion_encoder"],
            images,
            method="feature_map",
            layer=layer,
            side=side,
        )

    def identity_code(self, trees: Trees, images: jax.Array) -> jax.Array:
        """Computes identity codes [N, D]."""
        return self._apply(self.modules.encoder, trees["identity_encoder"], images)

    def features(
        self, trees: Trees, images: jax.Array, *, for_loss: bool = False
    ) -> FaceFeatures:
        """Computes trunk maps and, if `for_loss`, the maps of the perceptual loss."""
        if not self.learned_trunk:
            # The loss's taps include those of the trunk, so one pass is enough.
            maps = self._vgg_maps(trees, images, LOSS_TAPS if for_loss else TRUNK_TAPS)
            trunk = {name: maps[name] for name in TRUNK_TAPS}
            trunk = self._append_packed_image(trunk, images)
            return FaceFeatures(trunk=trunk, loss=maps if for_loss else {})

        trunk = self._apply(self.modules.trunk, trees["trunk"], images, taps=TRUNK_TAPS)
        trunk = self._append_packed_image(trunk, images)
        loss = self.loss_features(trees, images) if for_loss else {}
        return FaceFeatures(trunk=trunk, loss=loss)

    def _append_packed_image(self, trunk: Features, images: jax.Array) -> Features:
        """Adds the images to the channels of conv2_1 if the generator adds to them."""
        if not self.modules.generator.image_skip:
            return trunk

        packed = space_to_depth(images.astype(jnp.float32), factor=2)
        fine = trunk["conv2_1"].astype(jnp.float32)
        return {**trunk, "conv2_1": jnp.concatenate([fine, packed], axis=-1)}

    def loss_features(self, trees: Trees, images: jax.Array) -> Features:
        """Computes the maps of the perceptual loss; none where no VGG is used."""
        return {} if self.vgg is None else self._vgg_maps(trees, images, LOSS_TAPS)

    def generate(
        self,
        trees: Trees,
        features: FaceFeatures,
        flow: jax.Array | None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Generates images [N, H, W, 3] from trunk maps, warped by a flow or not."""
        return self._apply(
            self.modules.generator, trees["generator"], features.trunk, flow, key=key
        )

    def remove_identity(
        self, trees: Trees, features: FaceFeatures, code: jax.Array
    ) -> jax.Array:
        """Generates mean faces [N, H, W, 3] from maps of neutral faces and codes."""
        maps = features.trunk["conv3_1"]
        return self._apply(
            self.modules.normaliser, trees["normaliser"], maps, code, method="remove"
        )

    def restore_identity(
        self, trees: Trees, features: FaceFeatures, code: jax.Array
    ) -> jax.Array:
        """Generates neutral faces [N, H, W, 3] from maps of mean faces and codes.

        One mean face may serve all codes.
        """
        maps = features.trunk["conv3_1"]
        return self._apply(
            self.modules.normaliser, trees["normaliser"], maps, code, method="restore"
        )

    def _apply(self, module: Any, params: Any, *arguments: Any, **options: Any) -> Any:
        """Applies a module to its parameters, rematerialised if requested."""

        def apply(params: Any, arguments: Any) -> Any:
            return module.apply({"params": params}, *arguments, **options)

        if self.remat:
            return jax.checkpoint(apply)(params, arguments)
        return apply(params, arguments)

    def _vgg_maps(
        self, trees: Trees, images: jax.Array, taps: tuple[str, ...]
    ) -> Features:
        """Computes the VGG-19's maps at the taps."""
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
    """Builds the networks of a model configuration.

    Args:
      model: mapping with width, image_size, code_dim, dtype, trunk ('vgg' or 'learned')
        and perhaps encoder_width, image_skip and code_init.
      vgg_width: channel multiplier of the VGG-19; None takes 1.
      vgg_for_loss: whether a VGG-19 is there for the loss when the trunk is learned.
      remat: see `FaceNetworks`.

    Returns:
      The networks.

    Raises:
      UserError: if a value is out of range.
    """
    if model["trunk"] not in ("vgg", "learned"):
        raise UserError(
            f"model.trunk must be 'vgg' or 'learned', got {model['trunk']!r}."
        )

    modules = build_modules(
        width=model["width"],
        image_size=model["image_size"],
        code_dim=model["code_dim"],
        encoder_width=model.get("encoder_width", 0.0),
        image_skip=model.get("image_skip", False),
        code_init=model.get("code_init", 0.01),
        dtype=model["dtype"],
    )

    learned = model["trunk"] == "learned"
    vgg = None
    if not learned or vgg_for_loss:
        vgg = VGG19("conv4_1", vgg_width or 1.0, computation_dtype(model["dtype"]))
    return FaceNetworks(modules=modules, vgg=vgg, learned_trunk=learned, remat=remat)


def init_motion(networks: FaceNetworks, key: jax.Array) -> dict[str, Any]:
    """Initialises the parameters of stage 1 at random.

    Returns:
      Trees of motion_encoder, flow_decoder, generator and, if it is learned, trunk.
    """
    keys = jax.random.split(key, 4)
    modules = networks.modules
    size = modules.encoder.image_size

    # Inputs of the right shapes.
    image = jnp.zeros((1, size, size, 3))
    code = jnp.zeros((1, modules.encoder.code_dim))
    flow = jnp.zeros((1, size // 4, size // 4, 2))
    features = _blank_features(networks)

    trees = {
        "motion_encoder": modules.encoder.init(keys[0], image)["params"],
        "flow_decoder": modules.flow_decoder.init(keys[1], code)["params"],
        "generator": modules.generator.init(keys[2], features, flow)["params"],
    }
    if networks.learned_trunk:
        trees["trunk"] = modules.trunk.init(keys[3], image, taps=TRUNK_TAPS)["params"]
    return trees


def init_identity(networks: FaceNetworks, key: jax.Array) -> dict[str, Any]:
    """Initialises the parameters of stage 2 at random.

    Returns:
      Trees of identity_encoder and normaliser.
    """
    keys = jax.random.split(key, 2)
    modules = networks.modules
    size = modules.encoder.image_size

    # Inputs of the right shapes.
    image = jnp.zeros((1, size, size, 3))
    code = jnp.zeros((1, modules.encoder.code_dim))
    features = _blank_features(networks)["conv3_1"]

    return {
        "identity_encoder": modules.encoder.init(keys[0], image)["params"],
        "normaliser": modules.normaliser.init(keys[1], features, code)["params"],
    }


def _blank_features(networks: FaceNetworks) -> Features:
    """Makes zero maps of the trunk's shapes, to initialise from."""
    trunk: Any = networks.modules.trunk if networks.learned_trunk else networks.vgg
    size = networks.modules.encoder.image_size
    key = jax.random.key(0)
    image = jnp.zeros((1, size, size, 3))

    # Shapes only: nothing is computed.
    shapes = jax.eval_shape(
        lambda: trunk.init_with_output(key, image, taps=TRUNK_TAPS)[0]
    )
    blank = {
        name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()
    }
    if networks.modules.generator.image_skip:
        extra = ((0, 0), (0, 0), (0, 0), (0, IMAGE_CHANNELS))
        blank["conv2_1"] = jnp.pad(blank["conv2_1"], extra)
    return blank
