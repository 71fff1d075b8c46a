"""A model's checked configuration, and the names and shapes of its weights.

Weights have flat names, '<network>/<layer>/.../<kernel or bias>', and the layouts of
Flax.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from facecycle_jax.errors import UserError, shorten
from facecycle_jax.networks.face_networks import (
    FaceNetworks,
    init_identity,
    init_motion,
    make_face_networks,
)
from facecycle_jax.networks.vgg import TRUNK_LAYERS

# The networks of the paper, with the sizes of the original program.
ORIGINAL_MODEL: Mapping[str, Any] = {
    "width": 1.0,
    "image_size": 64,
    "code_dim": 256,
    "dtype": "float32",
    "trunk": "vgg",
}
STAGES = {
    "motion": ("motion_encoder", "flow_decoder", "generator"),
    "identity": ("identity_encoder", "normaliser"),
}
# Above these a configuration is a mistake, and its arrays fit no machine.
MAX_WIDTH = 16.0
MAX_CODE = 1 << 16

Shapes = dict[str, tuple[int, ...]]


class Built(NamedTuple):
    """A checked model configuration and its networks.

    Attributes:
      model: the completed configuration.
      networks: the networks, without a VGG-19 that only a loss needs.
    """

    model: dict[str, Any]
    networks: FaceNetworks


def check_model(model: Any) -> dict[str, Any]:
    """Checks a model configuration and completes it; see `build_model`."""
    return build_model(model).model


def build_model(model: Any) -> Built:
    """Checks and completes a model configuration, and builds its networks.

    Args:
      model: mapping with width, image_size, code_dim, dtype and trunk. Optionally
        vgg_width, the channel multiplier of a trunk 'vgg' (default 1), encoder_width,
        the channel multiplier of the encoders (default 0: width), and image_skip,
        whether the generator adds to the warped image (default False). code_init, of
        initial weights, is left out.

    Returns:
      The networks, and the configuration as plain numbers and strings. It has vgg_width
      exactly if the trunk is 'vgg', encoder_width if that is above 0, and
      image_skip if that is True.

    Raises:
      UserError: If a field is missing, unknown or out of range; it names the field.
    """
    if not isinstance(model, Mapping):
        raise UserError(f"model must be a mapping of fields, got {shorten(model)}.")

    fields = {str(name): value for name, value in model.items()}
    known = (*ORIGINAL_MODEL, "vgg_width", "encoder_width", "image_skip", "code_init")
    missing = [name for name in ORIGINAL_MODEL if name not in fields]
    unknown = [name for name in fields if name not in known]
    if missing or unknown:
        what = (
            f"lacks {missing[0]!r}"
            if missing
            else f"has the unknown field {shorten(unknown[0])}"
        )
        raise UserError(f"model {what}; its fields are {', '.join(ORIGINAL_MODEL)}.")

    checked: dict[str, Any] = {
        "width": _number(fields, "width"),
        "image_size": _whole(fields, "image_size"),
        "code_dim": _whole(fields, "code_dim"),
        "dtype": _text(fields, "dtype"),
        "trunk": _text(fields, "trunk"),
    }
    if checked["trunk"] == "vgg":
        checked["vgg_width"] = _number({"vgg_width": 1.0, **fields}, "vgg_width")
    if fields.get("encoder_width", 0) != 0:
        checked["encoder_width"] = _number(fields, "encoder_width")

    if fields.get("image_skip", False) is not False:
        if fields["image_skip"] is not True:
            raise UserError(
                "model.image_skip must be true or false, got "
                f"{shorten(fields['image_skip'])}."
            )
        checked["image_skip"] = True

    # Building checks what is left: known sizes, dtypes and trunks.
    networks = make_face_networks(
        checked, vgg_width=checked.get("vgg_width"), vgg_for_loss=False
    )
    return Built(checked, networks)


def _number(fields: Mapping[str, Any], name: str) -> float:
    value = fields[name]
    if type(value) not in (int, float) or not 0 < value <= MAX_WIDTH:
        raise UserError(
            f"model.{name} must be a number above 0, at most {MAX_WIDTH}, got "
            f"{shorten(value)}."
        )
    return float(value)


def _whole(fields: Mapping[str, Any], name: str) -> int:
    value = fields[name]
    if type(value) is not int or not 1 <= value <= MAX_CODE:
        raise UserError(
            f"model.{name} must be a whole number from 1 to {MAX_CODE}, got "
            f"{shorten(value)}."
        )
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    if type(fields[name]) is not str:
        raise UserError(f"model.{name} must be a string, got {shorten(fields[name])}.")
    return fields[name]


def weight_shapes(
    model: Mapping[str, Any], stages: Iterable[str] = tuple(STAGES)
) -> Shapes:
    """Computes the names and shapes of a model's weights, without computing any weight.

    Args:
      model: the configuration.
      stages: 'motion', or 'motion' and 'identity'.

    Returns:
      {flat name: shape}, in the order of `STAGES`, the trunk last. Of a VGG-19 only
      conv1_1 .. conv3_1.

    Raises:
      UserError: If the configuration is out of range.
    """
    return network_shapes(build_model(model).networks, stages)


def network_shapes(
    networks: FaceNetworks, stages: Iterable[str] = tuple(STAGES)
) -> Shapes:
    """Computes the names and shapes of built networks' weights; see `weight_shapes`."""
    stages = tuple(stages)
    names: list[str] = []
    for stage, of_stage in STAGES.items():
        if stage in stages:
            names.extend(of_stage)
    names.append("trunk" if networks.learned_trunk else "vgg")

    of_network = _all_shapes(networks)
    shapes: Shapes = {}
    for name in names:
        shapes.update(of_network[name])
    return shapes


@functools.lru_cache(maxsize=8)
def _all_shapes(networks: FaceNetworks) -> dict[str, Shapes]:
    """Computes the shapes of all networks by network name, abstractly."""

    def init(key: jax.Array) -> dict[str, Any]:
        trees = {**init_motion(networks, key), **init_identity(networks, key)}
        if networks.vgg is not None:
            # The trunk is the VGG-19 up to conv3_1.
            size = networks.modules.encoder.image_size
            blank = jax.numpy.zeros((1, size, size, 3))
            trunk = networks.vgg.clone(last=TRUNK_LAYERS[-1])
            trees["vgg"] = trunk.init(key, blank, taps=())["params"]
        return trees

    trees = jax.eval_shape(init, jax.eval_shape(jax.random.key, 0))

    shapes: dict[str, Shapes] = {}
    for network, tree in trees.items():
        shapes[network] = {
            f"{network}/{name}": tuple(leaf.shape) for name, leaf in flatten(tree)
        }
    return shapes


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (flat name, leaf) of nested mappings, in their order."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Builds nested dicts from flat names."""
    tree: dict[str, Any] = {}

    for name, value in flat.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value

    return tree


def count_parameters(shapes: Shapes) -> int:
    """Counts the numbers in all weights."""
    return sum(math.prod(shape) for shape in shapes.values())
