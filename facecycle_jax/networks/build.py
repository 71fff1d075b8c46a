"""The networks that a model configuration describes."""

from typing import NamedTuple

import jax.numpy as jnp

from facecycle_jax.errors import UserError
from facecycle_jax.networks.blocks import Dtype
from facecycle_jax.networks.encoder import CodeEncoder, check_image_size
from facecycle_jax.networks.flow_decoder import FlowDecoder
from facecycle_jax.networks.generator import Generator
from facecycle_jax.networks.normaliser import Normaliser
from facecycle_jax.networks.vgg import VGG19

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class FaceModules(NamedTuple):
    """Linen modules without parameters; both encoders are the same architecture.

    Attributes:
      encoder: images to codes (motion, and with other parameters identity).
      flow_decoder: motion codes to flows.
      generator: trunk maps and flow to images.
      normaliser: trunk maps and identity code to mean and neutral faces.
      trunk: the trunk of generator and normaliser when it is learned.
    """

    encoder: CodeEncoder
    flow_decoder: FlowDecoder
    generator: Generator
    normaliser: Normaliser
    trunk: VGG19


def check_width(width: float) -> None:
    """Raises UserError unless a multiplier of channels is above 0."""
    if width <= 0:
        raise UserError(f"model.width must be above 0, got {width}.")


def computation_dtype(name: str) -> Dtype:
    """Returns the dtype that `model.dtype` names; raises UserError for another name."""
    if name not in DTYPES:
        raise UserError(f"model.dtype must be one of {sorted(DTYPES)}, got {name!r}.")
    return DTYPES[name]


def build_modules(
    *,
    width: float = 1.0,
    image_size: int = 64,
    code_dim: int = 256,
    dtype: str = "float32",
    encoder_width: float = 0.0,
    image_skip: bool = False,
    code_init: float = 0.01,
) -> FaceModules:
    """Builds the modules of FaceCycle.

    Args:
      width: multiplier on all channel counts, above 0; 1 is the paper's.
      image_size: 64, 128 or 256 pixels.
      code_dim: length of the codes.
      dtype: computation dtype, 'float32' or 'bfloat16'; parameters are float32.
      encoder_width: multiplier on the encoders' channels; 0 takes `width`. An encoder
        runs once for every three images of the generator, so a narrow model can afford
        wider encoders.
      image_skip: whether the generator adds to the warped image and the normaliser to a
        learned one, see there.
      code_init: see `CodeEncoder`.

    Returns:
      The networks.

    Raises:
      UserError: if a value lies outside these ranges.
    """
    check_image_size(image_size)
    check_width(width)
    if encoder_width < 0:
        raise UserError(f"encoder_width must not be negative, got {encoder_width}.")
    if code_dim < 1:
        raise UserError(f"code_dim must be at least 1, got {code_dim}.")

    kind = computation_dtype(dtype)
    return FaceModules(
        encoder=CodeEncoder(
            encoder_width or width, image_size, code_dim, kind, code_init
        ),
        flow_decoder=FlowDecoder(width, image_size, kind),
        generator=Generator(width, kind, image_skip),
        normaliser=Normaliser(width, kind, image_skip),
        trunk=VGG19("conv3_1", width, kind),
    )
