"""What a training method is: a pair of pure functions, and the options all methods share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from facecycle_jax.errors import UserError

Tree = dict[str, Any]


@flax.struct.dataclass
class Aux:
    """What a loss reports beside its total.

    Attributes:
      terms: scalars by name, before weighting, and 'total'.
      pictures: normalised pictures and flows [2B, h, w, 3 or 2] by name, the two pictures of an item
        next to each other. Unused ones cost nothing under jit.
    """

    terms: dict[str, jax.Array]
    pictures: dict[str, jax.Array]


class Method(NamedTuple):
    """A training method.

    Attributes:
      init: `init(key) -> (params, frozen)`, two trees by network name: what is trained, and what is
        only used.
      loss: `loss(params, frozen, pictures, key) -> (total, Aux)`; pictures float32 [B, 2, H, W, 3],
        normalised; a key of None draws without noise.
    """

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    loss: Callable[[Tree, Tree, jax.Array, jax.Array | None], tuple[jax.Array, Aux]]


def exchange(x: jax.Array) -> jax.Array:
    """Exchanges the two pictures of every item in [2B, ...], side by side; stays on its device."""
    return jnp.flip(x.reshape(-1, 2, *x.shape[1:]), axis=1).reshape(x.shape)


class LossOptions(NamedTuple):
    """Weights of the loss groups, and the program's quirks, which are the defaults.

    Attributes:
      perceptual_weight: weight of the Gram (or feature) loss. 0.01 belongs to torchvision's weights.
      pixel_weight: weight of the L1 terms.
      symmetry_weight: weight of the symmetry terms.
      ssim_weight: weight of the SSIM terms.
      margin_weight: weight of the margin (identity cycle).
      consensus_weight: weight of the L1 distance of each mean face to the mean of the batch (identity
        cycle), which nothing else makes alike. Not in the paper.
      folding_weight: weight of `losses.folding` (motion cycle), which keeps flows invertible. Not in the
        paper.
      saturation_weight: weight of `losses.saturation` of motion codes (motion cycle), which keeps the tanh at
        their end out of its flat parts. Not in the paper.
      perceptual: 'gram' (the paper's), 'feature' (compares maps place by place, which a Gram matrix
        cannot) or 'none' (no VGG in training at all).
      gram_normalise: divide Gram matrices by the channels too; the program does not, so its loss grows
        with a layer's width.
      noise: the generator draws with noise while training, as the paper's does. The noise has unit
        variance, whatever the maps have: beside those of a learned trunk it is large.
      generator: (motion cycle) False leaves out the generator and every term of its images: the motion
        encoder and the flow decoder are trained on warped images alone, at a fraction of the cost. A short
        stage before the motion cycle, whose flows it prepares. Not in the paper.
      exchange_identity: (identity cycle) pairs are two pictures of one track instead of two people's, and
        each neutral face is made again from the other picture's code: the code can hold only what the
        two share, as stage 1 does it with neutral faces. Not in the paper.
      ssim_range: L of the SSIM constants; the program uses 1 on pictures that span about 4.7.
      margin: width of the margin, normalised units.
      margin_hinge: cut the margin at 0 as the paper describes; the program does not.
    """

    perceptual_weight: float = 0.01
    pixel_weight: float = 1.0
    symmetry_weight: float = 1.5
    ssim_weight: float = 5.0
    margin_weight: float = 1.0
    consensus_weight: float = 0.0
    folding_weight: float = 0.0
    saturation_weight: float = 0.0
    perceptual: str = "gram"
    gram_normalise: bool = False
    noise: bool = True
    generator: bool = True
    exchange_identity: bool = False
    ssim_range: float = 1.0
    margin: float = 0.1
    margin_hinge: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "LossOptions":
        """Takes the fields of the same names from a mapping; others keep their defaults.

        Args:
          config: e.g. `config.loss`.

        Returns:
          The options.

        Raises:
          ValueError: if 'perceptual' is none of the three kinds.
        """
        options = cls(**{name: config[name] for name in cls._fields if name in config})
        kinds = ("gram", "feature", "none")
        if options.perceptual not in kinds:
            raise UserError(f"loss.perceptual must be one of {kinds}, got {options.perceptual!r}.")
        return options


def weighted_total(terms: Mapping[str, jax.Array], weights: Mapping[str, float]) -> jax.Array:
    """Sums terms times their weights.

    Args:
      terms: scalars by name.
      weights: weight by the same names.

    Returns:
      Scalar.

    Raises:
      ValueError: if the names differ, so that no term is dropped silently.
    """
    if set(terms) != set(weights):
        raise UserError(f"terms and weights differ in {sorted(set(terms) ^ set(weights))}.")
    return sum((terms[name] * weights[name] for name in sorted(terms)), start=jax.numpy.zeros(()))
