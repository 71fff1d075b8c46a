"""A trained model of a method that FaceCycle is compared with: features and maps.

Input images are paths, PIL images, uint8 arrays or lists of these, of any size and
mode. They are centre-cropped to a square and resized.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from facecycle_jax.errors import UserError
from facecycle_jax.inference.face_cycle import (
    FaceCycle,
    Images,
    check_side,
    read_images,
)
from facecycle_jax.inference.runner import BATCH_SIZE, Batches
from facecycle_jax.methods.peers import PeerFeatures, peer_features
from facecycle_jax.networks import Tree
from facecycle_jax.ops import adaptive_average_pool
from facecycle_jax.ops.normalisation import MEAN, STD


class NoSuchOutputError(UserError, AttributeError):
    """Only FaceCycle's models have the attribute; `hasattr` is False for it."""


# Attributes of instances of `FaceCycle`, which its class does not have.
_ATTRIBUTES = ("framing", "has_identity")


@functools.lru_cache(maxsize=16)
def _peer_networks(method: str, model: str) -> PeerFeatures:
    """Builds the networks of a peer, the same for models of one configuration.

    What is compiled is kept by these networks, so such models share it.
    """
    return peer_features({"method": method, "model": json.loads(model)})


def _features(
    function: PeerFeatures, trees: Tree, images: jax.Array, *, maps: bool, side: int
) -> dict[str, jax.Array]:
    """Computes a peer's features [N, D] in the form that `Batches.run` expects."""
    found = function(trees, images, maps=maps)
    if maps and side:
        found = adaptive_average_pool(found, side=side)
    return {"features": found.reshape(len(found), -1)}


class PeerModel:
    """A trained model of a method that FaceCycle is compared with.

    It computes features and maps, and nothing else.

    Args:
      trees: parameters by network name, and the running statistics.
      config: the run's configuration: method and model.
      info: what is known of the model, for reading.
      batch_size: images computed at once, at most, on all devices together.
      devices: see `loading.load`.

    Attributes:
      config: the run's configuration.
      method: the method's name.
      model: configuration of the networks.
      info: what is known of the model.
      size: side of the images that it was trained on, in pixels.
      any_size: whether it accepts images of other sizes too. FAb-Net and TCAE do not.
    """

    def __init__(
        self,
        trees: Mapping[str, Tree],
        *,
        config: Mapping[str, Any],
        info: Mapping[str, Any] | None = None,
        batch_size: int = BATCH_SIZE,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Builds the networks."""
        self.config = dict(config)
        self.method = str(config["method"])
        self.model = dict(config["model"])
        self.info = dict(info or {})
        self.size = int(config["model"]["image_size"])
        self.any_size = self.method not in ("fab_net", "tcae")

        text = json.dumps(self.model, sort_keys=True)
        self._networks = _peer_networks(self.method, text)
        networks: Any = self._networks
        self._batches = Batches(networks, trees, batch_size=batch_size, devices=devices)

    def __getattr__(self, name: str) -> Any:
        """Refuses what only FaceCycle's models can do, with a sentence."""
        if not name.startswith("_") and (
            hasattr(FaceCycle, name) or name in _ATTRIBUTES
        ):
            raise NoSuchOutputError(
                f"This is a model of {self.method}: it has features, and no {name}."
            )
        raise AttributeError(name)

    @property
    def trees(self) -> dict[str, Tree]:
        """The parameters by network name, and the running statistics."""
        return self._batches.trees

    def features(self, images: Images, *, size: int | None = None) -> np.ndarray:
        """Computes the features that the method is evaluated with.

        See `methods.peers.peer_features`.

        Args:
          images: one image or several, see the top of this module.
          size: side they are resized to, in pixels; None: the one trained on. FAb-Net
            and TCAE accept no other.

        Returns:
          float32 [N, D].

        Raises:
          UserError: If an image cannot be read, a file of a list is not there, `size`
            is not a whole number from 1, or the method has another size.
          FileNotFoundError: If the one file given is not there.
        """
        return self._run(images, size=size, maps=False, side=0)

    def feature_map(
        self, images: Images, *, size: int | None = None, side: int = 0
    ) -> np.ndarray:
        """Computes the last convolutional map that is not yet one vector.

        Of TCAE it is that of the branch of expression.

        Args:
          images: as for `features`.
          size: as for `features`.
          side: if above 0, the map is averaged over side x side areas.

        Returns:
          float32 [N, h * w * c].

        Raises:
          UserError: See `features`, and if `side` is not a whole number from 0.
          FileNotFoundError: If the one file given is not there.
        """
        return self._run(images, size=size, maps=True, side=side)

    def traced_features(
        self, images: jax.Array, *, maps: bool = False, side: int = 0
    ) -> jax.Array:
        """Computes features or maps of normalised images, for use inside jit.

        Args:
          images: float [N, S, S, 3], normalised.
          maps: whether to compute `feature_map` instead of `features`.
          side: as for `feature_map`.

        Returns:
          [N, D].
        """
        # From the space of FaceCycle's networks to pixels in 0..1.
        unit = images * jnp.asarray(STD) + jnp.asarray(MEAN)
        found = _features(self._networks, self.trees, unit, maps=maps, side=side)
        return found["features"]

    def _run(
        self, images: Images, *, size: int | None, maps: bool, side: int
    ) -> np.ndarray:
        """Computes features or maps of images."""
        check_side(side)
        size = self.size if size is None else size
        if size != self.size and not self.any_size:
            raise UserError(
                f"A model of {self.method} accepts images of {self.size} pixels only, "
                f"got {size}."
            )

        array = read_images(images, size=size)
        found = self._batches.run(_features, array, maps=maps, side=side)
        return found["features"]
