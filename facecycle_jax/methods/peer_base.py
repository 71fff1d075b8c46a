"""What each method that FaceCycle is compared with provides, and what they share."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from facecycle_jax.errors import UserError
from facecycle_jax.methods.base import BATCH_STATS, Method, Views, apply_with_stats
from facecycle_jax.networks import Tree
from facecycle_jax.networks.build import check_width, computation_dtype
from facecycle_jax.ops import views

Config = Mapping[str, Any]

# The side of an image in the units of `ops.views.CropOptions`.
_WHOLE_SIDE = 256


class Peer(NamedTuple):
    """A method that FaceCycle is compared with.

    Attributes:
      build: `build(config, *, weights) -> Method`, with its views; without `weights` no
        file is read.
      features: `features(config, trees, images, *, maps) -> [N, ...]`, what the method
        is evaluated with; see `methods.peers.peer_features`.
      frames: smallest and largest number of frames of an item.
      compares_items: whether the loss ranks or contrasts the items of a batch, so that
        a micro-batch needs two of them.
    """

    build: Callable[..., Method]
    features: Callable[..., jax.Array]
    frames: tuple[int, float] = (1, math.inf)
    compares_items: bool = True


def network_options(model: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Takes the options of a peer's networks from a configuration.

    Args:
      model: `config.model`.
      *names: fields of it that are passed on, in addition to width and dtype; those it
        lacks keep their default.

    Returns:
      Keywords of the function that builds the networks.

    Raises:
      UserError: If width or dtype is out of range.
    """
    check_width(model["width"])
    dtype = computation_dtype(model["dtype"])
    given = {name: model[name] for name in names if name in model}
    return {"width": model["width"], "dtype": dtype, **given}


def encode(encoder: Any, trees: Tree, images: jax.Array, *, maps: bool) -> Any:
    """Applies an encoder that has batch normalisation, with its running statistics.

    Args:
      encoder: the Linen module.
      trees: by network name, with 'encoder' and the running statistics.
      images: as the module takes them.
      maps: whether to return its maps instead of its codes.

    Returns:
      What the module returns.
    """
    found, _ = apply_with_stats(
        encoder,
        "encoder",
        trees,
        trees[BATCH_STATS],
        images,
        train=False,
        maps=maps,
    )
    return found


def random_views(
    augment: Callable[[jax.Array, Mapping[str, jax.Array]], Any],
) -> Views:
    """Takes the same random views at every evaluation, since contrasts need some.

    Args:
      augment: as in `Views`.

    Returns:
      Views that draw in evaluation too.
    """
    return Views(augment, lambda batch: augment(jax.random.key(0), batch))


def random_crops(config: Config, *, normalised: bool) -> Views:
    """Crops frames at random: a side for the batch, and a place for each frame.

    In evaluation all crops are central.

    Args:
      config: with `augment` (fields of `ops.views.CropOptions`) and `model.image_size`.
      normalised: whether images are normalised; otherwise they are in 0..1.

    Returns:
      Views of images [B, n, H, W, 3].

    Raises:
      UserError: If a crop would not lie inside an image.
    """
    augment = config["augment"]
    sides = [augment[name] for name in ("smallest", "largest", "side")]
    if sides != sorted(sides):
        raise UserError(
            "augment.smallest <= augment.largest <= augment.side must hold, got "
            f"{', '.join(map(str, sides))}."
        )
    for edge in ("left", "top"):
        end = augment[edge] + augment["side"]
        if end > _WHOLE_SIDE:
            raise UserError(
                f"augment.{edge} and augment.side must add up to {_WHOLE_SIDE} at "
                f"most, the side of the image, got {end}."
            )

    options = {
        "size": config["model"]["image_size"],
        "crop": views.CropOptions(**augment),
        "normalised": normalised,
    }
    return Views(
        augment=functools.partial(views.crop_frames, **options),
        deterministic=functools.partial(views.centre_crop_frames, **options),
    )
