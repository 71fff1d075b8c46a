"""A trained model and what is done with it: codes, neutral and mean faces, translation.

Pictures go in as paths, PIL pictures, uint8 arrays or lists of these, of any size and
mode, and are cut square about their middle; they come out uint8 [N, S, S, 3], RGB, S
the model's size (64). Codes are float32 [N, D] in (-1, 1). Flows are float32 [N, S/4,
S/4, 2], (x, y) in units of half a picture.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
from etils import epath

from facecycle_jax.data.images.framing import FRAMING, Framing
from facecycle_jax.data.images.reading import as_pictures
from facecycle_jax.errors import UserError
from facecycle_jax.inference import functions as inference
from facecycle_jax.inference.functions import FACE_OUTPUTS, PAIR_OUTPUTS
from facecycle_jax.inference.runner import BATCH_SIZE, Batches, Outputs
from facecycle_jax.methods import PEERS, vgg_width
from facecycle_jax.methods.peers import peer_features
from facecycle_jax.networks import FEATURE_SIZE, LAYERS, Tree
from facecycle_jax.networks.face_networks import FaceNetworks, make_face_networks
from facecycle_jax.networks.vgg import TRUNK_LAYERS
from facecycle_jax.storage import read_model
from facecycle_jax.storage.bundled import find_model_folder, shipped_models

# Models that come with the package, and the one that commands take where none is named.
DEFAULT_MODEL = "facecycle-small"
Pictures = Any
_TRANSLATED = (
    "input",
    "flow",
    "neutral",
    "reexpressed",
    "mean_face",
    "reidentified",
    "reidentified_reexpressed",
)


def load(
    path_or_name: epath.PathLike,
    *,
    batch_size: int = BATCH_SIZE,
    devices: Sequence[jax.Device] | None = None,
) -> "FaceCycle":
    """Loads a model.

    Args:
      path_or_name: a model folder, the workdir of a training run (its newest checkpoint
        is meant) or one of its checkpoints, DIR/checkpoints/STEP, or the name of a
        model that comes with the package: 'facecycle-small' (docs/model_card.md).
      batch_size: pictures computed at once, at most, on all devices together.
      devices: of one kind and of this process, to split batches of pictures over; None:
        all of the default kind. Each holds the parameters once it is needed.

    Returns:
      The model; of a run of a method that FaceCycle is compared with, a `PeerModel`.

    Raises:
      FileNotFoundError: if there is nothing of that name.
      ValueError: if it cannot be read, in one sentence that says why.
    """
    path = epath.Path(path_or_name).expanduser()
    if _is_run(path):
        peer = _peer_from_run(path, batch_size=batch_size, devices=devices)
        if peer is not None:
            # Typed as what nearly everybody loads; a PeerModel says what it cannot do.
            return cast(FaceCycle, peer)
        trees, model, source = model_from_run(path)
        return FaceCycle(
            trees,
            model=model,
            info={"source": source},
            batch_size=batch_size,
            devices=devices,
        )
    found = path if path.exists() else find_model_folder(path_or_name)
    if found is None:
        raise FileNotFoundError(
            f"no model {str(path_or_name)!r}: give a model folder, the workdir of a run, or one of "
            f"{', '.join(shipped_models())}."
        )
    folder = read_model(found)
    return FaceCycle(
        folder.trees,
        model=folder.model,
        info=folder.info,
        batch_size=batch_size,
        devices=devices,
        forward=folder.forward,
    )


def _is_run(path: epath.Path) -> bool:
    return path.parent.name == "checkpoints" or (path / "checkpoints").is_dir()


def _peer_from_run(
    path: epath.PathLike, *, batch_size: int, devices: Sequence[jax.Device] | None
) -> "PeerModel | None":
    """Loads a run of one of `PEERS`; None if it is of another method."""
    # Orbax takes a second to import; model folders do without.
    from facecycle_jax.training.network_loading import find_checkpoint, load_trees
    from facecycle_jax.training.run_config import read_config

    checkpoint = find_checkpoint(path)
    config = read_config(checkpoint.parent.parent)
    if config.get("method") not in PEERS:
        return None
    trees = load_trees(checkpoint)
    source = f"training run {checkpoint.parent.parent.name}, {config['method']}, step {checkpoint.name}"
    return PeerModel(
        trees,
        config=config,
        info={"source": source},
        batch_size=batch_size,
        devices=devices,
    )


def model_from_run(path: epath.PathLike) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Loads what a model folder needs from a training run.

    Args:
      path: workdir of a run (its newest checkpoint is meant, or the one before it if
        that is damaged) or one checkpoint, WORKDIR/checkpoints/STEP.

    Returns:
      Trees by name (averaged weights where they were kept), model configuration, and
      the source in words.

    Raises:
      FileNotFoundError: if there is no run or no checkpoint.
      ValueError: if it cannot be read, or its config.json lacks a field.
    """
    # Orbax takes a second to import; model folders do without.
    from facecycle_jax.training.network_loading import load_newest
    from facecycle_jax.training.run_config import read_config

    checkpoint, trees = load_newest(path)
    workdir = checkpoint.parent.parent
    config = read_config(workdir)
    try:
        trees, model = _networks_of_state(config, trees)
        method = config["method"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{workdir / 'config.json'} is no configuration of a run ({error})."
        ) from None

    source = f"training run {workdir.name} of facecycle_jax, {method}, step {checkpoint.name}"
    return trees, model, source


def model_from_state(
    config: Mapping[str, Any],
    trees: Mapping[str, Tree],
    *,
    info: Mapping[str, Any] | None = None,
    batch_size: int = BATCH_SIZE,
    devices: Sequence[jax.Device] | None = None,
) -> "FaceCycle":
    """Makes a model of what a training run has in memory.

    Args:
      config: of the run, with `model` and `loss`.
      trees: parameters by network name, those of the state's `frozen` and `eval_params`
        together.
      info: what is known of the model, for reading.
      batch_size: see `load`.
      devices: see `load`.

    Returns:
      The model; it copies the parameters.
    """
    kept, model = _networks_of_state(config, trees)
    return FaceCycle(
        kept, model=model, info=info, batch_size=batch_size, devices=devices
    )


def _networks_of_state(
    config: Mapping[str, Any], trees: Mapping[str, Tree]
) -> tuple[dict[str, Tree], dict[str, Any]]:
    """Picks what a model needs of a run.

    Parameters without those of the loss alone, and configuration.
    """
    kept = dict(trees)
    model = dict(config["model"])

    if model["trunk"] == "learned":
        # A VGG-19 is the loss's alone.
        kept.pop("vgg", None)
    else:
        model["vgg_width"] = vgg_width(config)
        if "vgg" in kept:
            # Layers beyond these are the loss's alone.
            kept["vgg"] = {
                layer: kept["vgg"][layer]
                for layer in TRUNK_LAYERS
                if layer in kept["vgg"]
            }
    return kept, model


class FaceCycle:
    """A trained model; every method is a pure function of its pictures.

    Args:
      trees: parameters by network name: motion_encoder, flow_decoder, generator, the
        trunk and, of both stages, identity_encoder and normaliser.
      model: configuration of the networks.
      info: what is known of the model, for reading.
      batch_size: pictures computed at once, at most, on all devices together.
      devices: see `load`.
      forward: the networks, where they are built already; None builds them from
        `model`.

    Attributes:
      model: configuration of the networks.
      info: what is known of the model.
      has_identity: whether stage 2 is there: identity codes, mean faces and exchanged
        identities.
      size: side of the pictures it draws, in pixels.
      framing: where the eyes are in the images it expects; `crop_face(image,
        framing=model.framing)`.

    References:
      FaceCycle (ICCV 2021), sections 3.1 and 3.2.
    """

    def __init__(
        self,
        trees: Mapping[str, Tree],
        *,
        model: Mapping[str, Any],
        info: Mapping[str, Any] | None = None,
        batch_size: int = BATCH_SIZE,
        devices: Sequence[jax.Device] | None = None,
        forward: FaceNetworks | None = None,
    ) -> None:
        """Builds the networks."""
        self.model = dict(model)
        self.info = dict(info or {})
        self.has_identity = "normaliser" in trees and "identity_encoder" in trees
        self.size = int(model["image_size"])
        self.framing = (
            Framing.from_dict(self.info["framing"])
            if "framing" in self.info
            else FRAMING
        )

        if forward is None:
            forward = make_face_networks(
                model, vgg_width=model.get("vgg_width"), vgg_for_loss=False
            )
        self._forward = forward
        self._batches = Batches(forward, trees, batch_size=batch_size, devices=devices)

    @property
    def forward(self) -> FaceNetworks:
        """The networks' forward passes, pure functions of (trees, arrays)."""
        return self._forward

    @property
    def trees(self) -> dict[str, Tree]:
        """The parameters by network name."""
        return self._batches.trees

    def outputs(self, pictures: Pictures, names: Iterable[str]) -> Outputs:
        """Computes several outputs of the same faces in one pass, and nothing else.

        Args:
          pictures: one image or several, see the top of this module.
          names: any of input, motion_code, flow, backward_flow, neutral, reconstruction
            and, with stage 2, identity_code and mean_face.

        Returns:
          Arrays by name, in the order of `names`: codes float32 [N, D] in (-1, 1),
          flows float32 [N, S/4, S/4, 2], images uint8 [N, S, S, 3].

        Raises:
          ValueError: If a name is unknown or needs stage 2, or an image cannot be read.
          FileNotFoundError: If a file is not there.
        """
        known = ("input", *FACE_OUTPUTS)
        wanted = inference.check_outputs(names, known, has_identity=self.has_identity)
        images = self.read(pictures)

        found = {"input": np.array(images)}
        computed = tuple(name for name in wanted if name != "input")
        if computed:
            found |= self._batches.run(inference.face_outputs, images, outputs=computed)
        return {name: found[name] for name in wanted}

    def lower(self, names: Iterable[str], *, count: int = 1) -> jax.stages.Lowered:
        """Lowers the program with which `outputs` computes, for its cost, its text or to export it.

        Args:
          names: as of `outputs`, without input.
          count: images in the batch.

        Returns:
          The program of (trees, images uint8 [n, S, S, 3]), n the next power of two,
          before optimisation.

        Raises:
          ValueError: If a name is unknown or needs stage 2.
        """
        wanted = inference.check_outputs(
            names, FACE_OUTPUTS, has_identity=self.has_identity
        )
        blank = np.zeros((count, self.size, self.size, 3), np.uint8)
        return self._batches.lower(inference.face_outputs, blank, outputs=wanted)

    def motion_code(self, pictures: Pictures) -> np.ndarray:
        """Computes motion codes: expression and head pose.

        Args:
          pictures: one picture or several, see the top of this module.

        Returns:
          float32 [N, D] in (-1, 1).

        Raises:
          ValueError: if a picture cannot be read.
          FileNotFoundError: if a file is not there.
        """
        return self._one("motion_code", pictures)

    def identity_code(self, pictures: Pictures) -> np.ndarray:
        """Computes identity codes float32 [N, D] in (-1, 1).

        ValueError for a model of stage 1 alone.
        """
        return self._one("identity_code", pictures)

    def feature_map(
        self,
        pictures: Pictures,
        *,
        size: int = FEATURE_SIZE,
        layer: str = LAYERS[-1],
        side: int = 0,
    ) -> np.ndarray:
        """Computes the map below the motion code's dense layers, the feature of the linear protocol.

        Args:
          pictures: one picture or several.
          size: side they are brought to, pixels.
          layer: one of `facecycle_jax.networks.LAYERS`, to read an earlier layer of the
            motion encoder.
          side: above 0, the map is averaged over side x side areas: earlier maps are
            large.

        Returns:
          float32 [N, h * w * c]; 7 * 7 * 128 = 6272 numbers at 100 pixels and width 1,
          for 'residual2' and a side of 7 the same.

        Raises:
          ValueError: for a layer there is none of, a side below 0, or a picture that
            cannot be read.
        """
        found = self._batches.run(
            inference.feature_map,
            self.read(pictures, size=size),
            layer=layer,
            side=side,
        )
        return found["map"].reshape(len(found["map"]), -1)

    def traced_feature_map(
        self, images: jax.Array, *, layer: str = LAYERS[-1], side: int = 0
    ) -> jax.Array:
        """Computes the same from normalised pictures [N, H, W, 3], for use inside jit.

        [N, h * w * c].
        """
        maps = self._forward.feature_map(self.trees, images, layer=layer, side=side)
        return maps.reshape(len(images), -1)

    def flow(self, pictures: Pictures) -> np.ndarray:
        """Computes the flows float32 [N, S/4, S/4, 2] that remove the motion of faces."""
        return self._one("flow", pictures)

    def neutral(self, pictures: Pictures) -> np.ndarray:
        """Draws neutral faces uint8 [N, S, S, 3].

        The same people without expression, from the front.
        """
        return self._one("neutral", pictures)

    def mean_face(self, pictures: Pictures) -> np.ndarray:
        """Draws mean faces uint8 [N, S, S, 3]: neutral faces without identity."""
        return self._one("mean_face", pictures)

    def reconstruct(self, pictures: Pictures) -> np.ndarray:
        """Draws faces uint8 [N, S, S, 3] from their own neutral faces and motion, the motion cycle."""
        return self._one("reconstruction", pictures)

    def reexpress(self, source: Pictures, driver: Pictures) -> np.ndarray:
        """Draws source faces with the motion of driver faces.

        Args:
          source: one picture or N.
          driver: one picture or N.

        Returns:
          uint8 [N, S, S, 3].

        Raises:
          ValueError: if the numbers of pictures differ and neither is one, or one
            cannot be read.
        """
        a, b = self._pair(source, driver)
        return self._batches.run(inference.reexpress, a, b)["reexpressed"]

    def reidentify(self, source: Pictures, driver: Pictures) -> np.ndarray:
        """Draws neutral faces uint8 [N, S, S, 3] of the source's identity on the driver's mean face."""
        return self.translate(source, driver, outputs=("reidentified",))[
            "reidentified"
        ][:, 0]

    def translate(
        self,
        source: Pictures,
        driver: Pictures,
        *,
        outputs: Iterable[str] | None = None,
    ) -> Outputs:
        """Exchanges motion and identity between pairs of faces.

        Args:
          source: one picture or N.
          driver: one picture or N.
          outputs: what to compute; None: all named below but backward_flow and codes,
            of a model of stage 1 alone input, flow, neutral and reexpressed.

        Returns:
          Arrays [N, 2, ...] by name, second axis source and driver: input, neutral,
          reexpressed (the face with the other's motion), mean_face, reidentified (the
          identity on the other's mean face), reidentified_reexpressed (that with the
          other's motion), all uint8 [N, 2, S, S, 3]; flow and backward_flow float32 [N,
          2, S/4, S/4, 2]; motion_code and identity_code float32 [N, 2, D].

        Raises:
          ValueError: If the numbers of images differ and neither is one, one cannot be
            read, or an output is unknown or needs stage 2.

        References:
          FaceCycle (ICCV 2021), section 4.5.
        """
        if outputs is None:
            left_out = () if self.has_identity else inference.IDENTITY_OUTPUTS
            outputs = [name for name in _TRANSLATED if name not in left_out]
        known = ("input", *PAIR_OUTPUTS)
        wanted = inference.check_outputs(outputs, known, has_identity=self.has_identity)
        a, b = self._pair(source, driver)

        found = {"input": np.stack([a, b], axis=1)}
        computed = tuple(name for name in wanted if name != "input")
        if computed:
            found |= self._batches.run(inference.pair_outputs, a, b, outputs=computed)
        return {name: found[name] for name in wanted}

    def read(self, pictures: Pictures, *, size: int | None = None) -> np.ndarray:
        """Reads pictures uint8 [N, size, size, 3].

        ValueError names every one that cannot be read.
        """
        array, _, problems = as_pictures(pictures, size=size or self.size)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise UserError(f"{problems[0]}{more}")
        return array

    def _one(self, name: str, pictures: Pictures) -> np.ndarray:
        """Computes one output."""
        return self.outputs(pictures, (name,))[name]

    def _pair(
        self, source: Pictures, driver: Pictures
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads two sides of equal length.

        One picture stands for as many as the other side has.
        """
        a, b = self.read(source), self.read(driver)
        if len(a) != len(b) and 1 not in (len(a), len(b)):
            raise UserError(
                f"source has {len(a)} pictures and driver {len(b)}; give as many, or one."
            )
        count = max(len(a), len(b)) if min(len(a), len(b)) else 0
        return np.broadcast_to(a, (count, *a.shape[1:])), np.broadcast_to(
            b, (count, *b.shape[1:])
        )


def _features(function: Any, trees: Tree, images: jax.Array) -> dict[str, jax.Array]:
    return {"features": function(trees, images)}


class PeerModel:
    """A trained model of a method that FaceCycle is compared with.

    Its features, and nothing else.

    Args:
      trees: parameters by network name, and the running statistics.
      config: the run's configuration: method and model.
      info: what is known of the model, for reading.
      batch_size: images computed at once, at most, on all devices together.
      devices: see `load`.

    Attributes:
      method: the method's name.
      info: what is known of the model.
      size: side of the images that it was trained on, in pixels.
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
        self.method, self.info = str(config["method"]), dict(info or {})
        self.size = int(config["model"]["image_size"])
        networks: Any = peer_features(config)
        self._batches = Batches(networks, trees, batch_size=batch_size, devices=devices)

    def __getattr__(self, name: str) -> Any:
        """Refuses what only FaceCycle's models can do, with a sentence."""
        if not name.startswith("_") and hasattr(FaceCycle, name):
            raise UserError(
                f"This is a model of {self.method}: it has features, and no {name}."
            )
        raise AttributeError(name)

    @property
    def trees(self) -> dict[str, Tree]:
        """The parameters by network name, and the running statistics."""
        return self._batches.trees

    def features(self, images: Pictures, *, size: int | None = None) -> np.ndarray:
        """Computes the features that the method is evaluated with, see `methods.peers.peer_features`.

        Args:
          images: one image or several, see the top of this module. They are not cropped
            further.
          size: side they are resized to, pixels; None: the one trained on. FAb-Net and
            TCAE accept no other.

        Returns:
          float32 [N, D].

        Raises:
          UserError: If an image cannot be read.
          FileNotFoundError: If a file is not there.
        """
        array, _, problems = as_pictures(images, size=size or self.size)
        if problems:
            raise UserError(problems[0])
        return self._batches.run(_features, array)["features"]
