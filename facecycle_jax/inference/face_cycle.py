"""A trained model and what it computes: codes, neutral and mean faces, translation.

Input images are paths, PIL images, uint8 arrays or lists of these, of any size and
mode. They are centre-cropped to a square. Output images are uint8 [N, S, S, 3], RGB,
where S is the model's size (64). Codes are float32 [N, D] in (-1, 1). Flows are float32
[N, S/4, S/4, 2], (x, y) in units of half an image.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from facecycle_jax.data.images.framing import FRAMING, Framing
from facecycle_jax.data.images.reading import as_images
from facecycle_jax.errors import UserError, shorten
from facecycle_jax.inference import functions as inference
from facecycle_jax.inference import motion_control
from facecycle_jax.inference.arguments import check_whole_number
from facecycle_jax.inference.functions import FACE_OUTPUTS, PAIR_OUTPUTS
from facecycle_jax.inference.motion_control import PoseDirections
from facecycle_jax.inference.runner import BATCH_SIZE, Batches, Outputs
from facecycle_jax.networks import FEATURE_SIZE, LAYERS, Tree, check_layer
from facecycle_jax.networks.face_networks import FaceNetworks, make_face_networks

Images = Any
# What `FaceCycle.translate` returns where no outputs are named.
_TRANSLATED = (
    "input",
    "flow",
    "neutral",
    "reexpressed",
    "mean_face",
    "reidentified",
    "reidentified_reexpressed",
)


class PreparedFaces(NamedTuple):
    """What drawing faces with other motion needs of them; see `FaceCycle.prepare`.

    Attributes:
      motion_code: float32 [N, D], the faces' own motion.
      fine: float32 [N, S/2, S/2, C2], maps of the trunk of their neutral faces.
      coarse: float32 [N, S/4, S/4, C3], likewise.
    """

    motion_code: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray

    def take(self, rows: slice) -> "PreparedFaces":
        """Returns some of the faces."""
        return PreparedFaces(
            motion_code=self.motion_code[rows],
            fine=self.fine[rows],
            coarse=self.coarse[rows],
        )


class FaceCycle:
    """A trained model.

    Results depend on the images and options alone. `pose_directions`, and what needs
    it, keeps what it has found in a file of the user's cache directory.

    Args:
      trees: parameters by network name: motion_encoder, flow_decoder, generator, the
        trunk and, of both stages, identity_encoder and normaliser.
      model: configuration of the networks.
      info: what is known of the model, for reading.
      batch_size: images computed at once, at most, on all devices together.
      devices: see `loading.load`.
      networks: the networks, if they are built already; None builds them from `model`.

    Attributes:
      model: configuration of the networks.
      info: what is known of the model.
      has_identity: whether the model has stage 2: identity codes, mean faces and
        exchanged identities.
      size: side of the images it draws, in pixels.
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
        networks: FaceNetworks | None = None,
    ) -> None:
        """Builds the networks."""
        self.model = dict(model)
        self.info = dict(info or {})
        self.has_identity = "normaliser" in trees and "identity_encoder" in trees
        self.size = int(model["image_size"])

        # Folders of earlier versions say nothing about framing.
        self.framing = FRAMING
        if "framing" in self.info:
            self.framing = Framing.from_dict(self.info["framing"])

        if networks is None:
            networks = make_face_networks(
                model, vgg_width=model.get("vgg_width"), vgg_for_loss=False
            )
        self._networks = networks
        self._batches = Batches(networks, trees, batch_size=batch_size, devices=devices)

    @property
    def networks(self) -> FaceNetworks:
        """The networks; their methods are pure functions of (trees, arrays)."""
        return self._networks

    @property
    def trees(self) -> dict[str, Tree]:
        """The parameters by network name."""
        return self._batches.trees

    def outputs(self, images: Images, names: Iterable[str]) -> Outputs:
        """Computes several outputs of the same faces in one pass, and nothing else.

        Args:
          images: one image or several, see the top of this module.
          names: any of input, motion_code, flow, backward_flow, neutral, reconstruction
            and, with stage 2, identity_code and mean_face.

        Returns:
          Arrays by name, in the order of `names`: codes float32 [N, D] in (-1, 1),
          flows float32 [N, S/4, S/4, 2], images uint8 [N, S, S, 3].

        Raises:
          UserError: If a name is unknown or needs stage 2, an image cannot be read, or
            a file of a list is not there.
          FileNotFoundError: If the one file given is not there.
        """
        known = ("input", *FACE_OUTPUTS)
        wanted = inference.check_outputs(names, known, has_identity=self.has_identity)
        batch = self.read(images)

        # `input` is what was read; all other outputs come from one program.
        found: Outputs = {}
        if "input" in wanted:
            found["input"] = np.array(batch)
        computed = tuple(name for name in wanted if name != "input")
        if computed:
            found |= self._batches.run(inference.face_outputs, batch, outputs=computed)

        return {name: found[name] for name in wanted}

    def lower(self, names: Iterable[str], *, count: int = 1) -> jax.stages.Lowered:
        """Lowers the program that `outputs` runs.

        The lowered program tells its cost and its text, and can be exported.

        Args:
          names: as for `outputs`, without input.
          count: images in the batch, 1 to the model's `batch_size`.

        Returns:
          The program of (trees, images uint8 [n, S, S, 3]) before optimisation. n is
          the next power of two from `count` on, at most `batch_size`.

        Raises:
          UserError: If a name is unknown or needs stage 2, or `count` is out of range.
        """
        wanted = inference.check_outputs(
            names, FACE_OUTPUTS, has_identity=self.has_identity
        )
        check_whole_number(count, name="count")
        blank = np.zeros((max(0, count), self.size, self.size, 3), np.uint8)
        return self._batches.lower(inference.face_outputs, blank, outputs=wanted)

    def motion_code(self, images: Images) -> np.ndarray:
        """Computes motion codes: expression and head pose.

        Args:
          images: one image or several, see the top of this module.

        Returns:
          float32 [N, D] in (-1, 1).

        Raises:
          UserError: If an image cannot be read, or a file of a list is not there.
          FileNotFoundError: If the one file given is not there.
        """
        return self._one("motion_code", images)

    def identity_code(self, images: Images) -> np.ndarray:
        """Computes identity codes.

        Args:
          images: one image or several, see the top of this module.

        Returns:
          float32 [N, D] in (-1, 1).

        Raises:
          UserError: If an image cannot be read, a file of a list is not there, or the
            model has stage 1 alone.
          FileNotFoundError: If the one file given is not there.
        """
        return self._one("identity_code", images)

    def feature_map(
        self,
        images: Images,
        *,
        size: int = FEATURE_SIZE,
        layer: str = LAYERS[-1],
        side: int = 0,
    ) -> np.ndarray:
        """Computes the map below the motion code's dense layers.

        This is the feature of the linear protocol.

        Args:
          images: one image or several.
          size: side that the images are resized to, in pixels.
          layer: one of `facecycle_jax.networks.LAYERS`, to read an earlier layer of the
            motion encoder. Several, separated by commas, are joined; they need `side`.
          side: if above 0, the map is averaged over side x side areas, because earlier
            maps are large.

        Returns:
          float32 [N, h * w * c]; 7 * 7 * 128 = 6272 numbers at 100 pixels and width 1,
          for 'residual2' and a side of 7 the same.

        Raises:
          UserError: If `layer` is unknown or names several without `side`, `size` is no
            whole number from 1 or `side` none from 0, an image cannot be read, or a
            file of a list is not there.
          FileNotFoundError: If the one file given is not there.
        """
        check_layer(layer)
        check_side(side)
        found = self._batches.run(
            inference.feature_map,
            self.read(images, size=size),
            layer=layer,
            side=side,
        )
        return found["map"].reshape(len(found["map"]), -1)

    def traced_feature_map(
        self, images: jax.Array, *, layer: str = LAYERS[-1], side: int = 0
    ) -> jax.Array:
        """Computes `feature_map` of normalised images, for use inside jit.

        Args:
          images: float [N, H, W, 3], normalised.
          layer: as for `feature_map`.
          side: as for `feature_map`.

        Returns:
          [N, h * w * c].
        """
        maps = self._networks.feature_map(self.trees, images, layer=layer, side=side)
        return maps.reshape(len(images), -1)

    def flow(self, images: Images) -> np.ndarray:
        """Computes flows that remove the motion of faces.

        Args:
          images: one image or several, see the top of this module.

        Returns:
          float32 [N, S/4, S/4, 2], (x, y) in units of half an image.

        Raises:
          UserError: If an image cannot be read, or a file of a list is not there.
          FileNotFoundError: If the one file given is not there.
        """
        return self._one("flow", images)

    def neutral(self, images: Images) -> np.ndarray:
        """Draws neutral faces: the same people without expression, from the front.

        Args:
          images: one image or several, see the top of this module.

        Returns:
          uint8 [N, S, S, 3].

        Raises:
          UserError: If an image cannot be read, or a file of a list is not there.
          FileNotFoundError: If the one file given is not there.
        """
        return self._one("neutral", images)

    def mean_face(self, images: Images) -> np.ndarray:
        """Draws mean faces: neutral faces without identity.

        Args:
          images: one image or several, see the top of this module.

        Returns:
          uint8 [N, S, S, 3].

        Raises:
          UserError: If an image cannot be read, a file of a list is not there, or the
            model has stage 1 alone.
          FileNotFoundError: If the one file given is not there.
        """
        return self._one("mean_face", images)

    def reconstruct(self, images: Images) -> np.ndarray:
        """Draws faces from their own neutral faces and motion.

        This closes the motion cycle.

        Args:
          images: one image or several, see the top of this module.

        Returns:
          uint8 [N, S, S, 3].

        Raises:
          UserError: If an image cannot be read, or a file of a list is not there.
          FileNotFoundError: If the one file given is not there.
        """
        return self._one("reconstruction", images)

    def reexpress(
        self,
        source: Images,
        driver: Images,
        *,
        strength: float = 1.0,
        only: str | None = None,
        relative: bool = False,
    ) -> np.ndarray:
        """Draws source faces with the motion of driver faces.

        Args:
          source: one image or N.
          driver: one image or N.
          strength: how much of the driver's motion the source gets, 0 (none) to 1.5.
            More than 1 exaggerates it.
          only: 'pose' takes over the head pose alone, 'expression' all but that.
          relative: whether the motion is the drivers' difference from the first driver,
            which is added to the source's own. The first result then shows the source
            as it is.

        Returns:
          uint8 [N, S, S, 3].

        Raises:
          UserError: If the numbers of images differ and neither is one, an image cannot
            be read, or an option is out of range.
        """
        motion_control.check_strength(strength)
        motion_control.check_part(only)

        a = self.read(source)
        b = self.read(driver)
        count = _check_counts(len(a), len(b))

        # One pass for pairs. One face that many drivers move is better prepared once.
        plain = strength == 1 and only is None and not relative
        if plain and len(a) == count:
            drivers = np.broadcast_to(b, a.shape)
            return self._batches.run(inference.reexpress, a, drivers)["reexpressed"]

        prepared = self.prepare(a)
        driver_codes = self.motion_code(b)
        if plain:
            return self._express(prepared, driver_codes)

        codes = motion_control.combine(
            prepared.motion_code,
            driver_codes,
            strength=strength,
            only=only,
            reference=driver_codes[:1] if relative else None,
            directions=self.pose_directions() if only is not None else None,
        )
        return self._express(prepared, codes)

    def prepare(self, source: Images) -> PreparedFaces:
        """Computes what `express` needs of faces, so that it can be used many times.

        Args:
          source: one image or several, see the top of this module.

        Returns:
          The faces' motion codes and the maps of their neutral faces.

        Raises:
          UserError: If an image cannot be read, or a file of a list is not there.
          FileNotFoundError: If the one file given is not there.
        """
        found = self._batches.run(inference.prepare, self.read(source))
        return PreparedFaces(
            motion_code=found["motion_code"],
            fine=found["conv2_1"],
            coarse=found["conv3_1"],
        )

    def express(
        self, source: Images | PreparedFaces, motion_codes: np.ndarray
    ) -> np.ndarray:
        """Draws faces with the motion of codes.

        Only the flow of the codes and the generator are computed for prepared faces.

        Args:
          source: one face or N: images, or what `prepare` returns.
          motion_codes: one code or N, [N, D] in (-1, 1), of this model.

        Returns:
          uint8 [N, S, S, 3].

        Raises:
          UserError: If the numbers of faces and codes differ and neither is one, the
            codes have another length or are not within -1 and 1, or an image cannot be
            read.
        """
        dimension = int(self.model["code_dim"])
        try:
            codes = np.asarray(motion_codes, np.float32)
        except (TypeError, ValueError):
            raise UserError(
                f"motion_codes must be an array of numbers [N, {dimension}], got "
                f"{shorten(motion_codes)}."
            ) from None
        if codes.ndim != 2 or codes.shape[1] != dimension:
            raise UserError(
                f"motion_codes of this model are [N, {dimension}], got "
                f"{list(codes.shape)}."
            )
        # NaN is refused too.
        if not (np.abs(codes) <= 1).all():
            raise UserError("motion_codes must be numbers from -1 to 1.")

        faces = source if isinstance(source, PreparedFaces) else self.prepare(source)
        return self._express(faces, codes)

    def _express(self, faces: PreparedFaces, codes: np.ndarray) -> np.ndarray:
        """Draws prepared faces with the motion of codes of this model."""
        count = _check_counts(
            len(faces.motion_code), len(codes), names=("faces", "motion codes")
        )
        repeated = [
            np.broadcast_to(array, (count, *array.shape[1:]))
            for array in (faces.fine, faces.coarse, codes)
        ]
        return self._batches.run(inference.express, *repeated)["expressed"]

    def turn(
        self, source: Images, *, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0
    ) -> np.ndarray:
        """Draws faces with their heads turned further.

        Args:
          source: one image or several.
          yaw: degrees, above 0 to the image's right.
          pitch: degrees, above 0 down.
          roll: degrees, above 0 clockwise.

        Returns:
          uint8 [N, S, S, 3].

        Raises:
          UserError: If an angle is not one finite number, or an image cannot be read.
        """
        # Before the images.
        motion_control.check_angles(yaw=yaw, pitch=pitch, roll=roll)

        faces = self.prepare(source)
        codes = motion_control.turn(
            faces.motion_code,
            self.pose_directions(),
            yaw=yaw,
            pitch=pitch,
            roll=roll,
        )
        return self._express(faces, codes)

    def interpolate(
        self, first: Images, second: Images, *, frames: int = 8, of: str | None = None
    ) -> np.ndarray:
        """Draws faces at equal steps from one face to another.

        Args:
          first: one image.
          second: one image.
          frames: number of faces, 2 to 1000.
          of: what changes: 'motion' (the first person, with more and more of the
            second's motion), 'identity' or 'both'. None: both, or motion for a model of
            stage 1 alone.

        Returns:
          uint8 [frames, S, S, 3].

        Raises:
          UserError: If an option is out of range, `of` needs stage 2, there is not one
            image on each side, or one cannot be read.
        """
        if of is None:
            of = "both" if self.has_identity else "motion"
        if of not in ("motion", "identity", "both"):
            raise UserError(f"of must be 'motion', 'identity' or 'both', got {of!r}.")
        if of != "motion" and not self.has_identity:
            raise UserError(
                f"This model has stage 1 alone; of={of!r} needs a model of both stages."
            )

        motion_control.check_frames(frames)
        a = self.read(first)
        b = self.read(second)
        if len(a) != 1 or len(b) != 1:
            raise UserError(
                f"interpolate takes one image on each side, got {len(a)} and {len(b)}."
            )

        # Codes [frames, D] on the way from one face to the other.
        both = np.concatenate([a, b])
        own, other = self.motion_code(both)
        end = own if of == "identity" else other
        motion = motion_control.interpolate(own, end, frames)
        if of == "motion":
            return self._express(self.prepare(a), motion)

        own_identity, other_identity = self.identity_code(both)
        identity = motion_control.interpolate(own_identity, other_identity, frames)
        shape = (frames, *a.shape[1:])
        found = self._batches.run(
            inference.morph,
            np.broadcast_to(a, shape),
            np.broadcast_to(b, shape),
            np.linspace(0.0, 1.0, frames, dtype=np.float32),
            identity,
            motion,
        )
        return found["morphed"]

    def pose_directions(self) -> PoseDirections:
        """Finds head pose in the motion codes; see `motion_control.pose_directions`.

        Returns:
          The directions, which are kept in a file of the user's cache directory.
        """
        return motion_control.pose_directions(self)

    @functools.cached_property
    def motion_key(self) -> str:
        """What identifies the motion encoder; see `motion_control.motion_key`."""
        return motion_control.motion_key(self.trees)

    def reidentify(self, source: Images, driver: Images) -> np.ndarray:
        """Draws neutral faces with the source's identity, on the driver's mean face.

        Args:
          source: one image or N.
          driver: one image or N.

        Returns:
          uint8 [N, S, S, 3].

        Raises:
          UserError: If the numbers of images differ and neither is one, an image cannot
            be read, or the model has stage 1 alone.
        """
        found = self.translate(source, driver, outputs=("reidentified",))

        # [N, 2, S, S, 3]; the first of the two is the source's.
        return found["reidentified"][:, 0]

    def translate(
        self,
        source: Images,
        driver: Images,
        *,
        outputs: Iterable[str] | None = None,
    ) -> Outputs:
        """Exchanges motion and identity between pairs of faces.

        Args:
          source: one image or N.
          driver: one image or N.
          outputs: what to compute. None: all outputs named below except backward_flow
            and the codes; for a model of stage 1 alone, input, flow, neutral and
            reexpressed.

        Returns:
          Arrays [N, 2, ...] by name, second axis source and driver: input, neutral,
          reexpressed (the face with the other's motion), mean_face, reidentified (the
          identity on the other's mean face), reidentified_reexpressed (that with the
          other's motion), all uint8 [N, 2, S, S, 3]; flow and backward_flow float32 [N,
          2, S/4, S/4, 2]; motion_code and identity_code float32 [N, 2, D].

        Raises:
          UserError: If the numbers of images differ and neither is one, one cannot be
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

        found: Outputs = {}
        if "input" in wanted:
            found["input"] = np.stack([a, b], axis=1)
        computed = tuple(name for name in wanted if name != "input")
        if computed:
            found |= self._batches.run(inference.pair_outputs, a, b, outputs=computed)

        return {name: found[name] for name in wanted}

    def read(self, images: Images, *, size: int | None = None) -> np.ndarray:
        """Reads images.

        Args:
          images: one image or several, see the top of this module.
          size: side that they are resized to, in pixels; None: the model's.

        Returns:
          uint8 [N, size, size, 3].

        Raises:
          UserError: If `size` is not a whole number from 1, an image cannot be read, or
            a file of a list is not there; it names the first and counts the rest.
          FileNotFoundError: If the one file given is not there.
        """
        return read_images(images, size=self.size if size is None else size)

    def _one(self, name: str, images: Images) -> np.ndarray:
        """Computes one output."""
        return self.outputs(images, (name,))[name]

    def _pair(self, source: Images, driver: Images) -> tuple[np.ndarray, np.ndarray]:
        """Reads both sides and brings them to equal length.

        A single image is repeated to match the other side.
        """
        a = self.read(source)
        b = self.read(driver)

        count = _check_counts(len(a), len(b))
        sources = np.broadcast_to(a, (count, *a.shape[1:]))
        drivers = np.broadcast_to(b, (count, *b.shape[1:]))
        return sources, drivers


def read_images(images: Images, *, size: int) -> np.ndarray:
    """Reads images; none may be left out.

    Args:
      images: one image or several, see the top of this module.
      size: side that they are resized to, in pixels.

    Returns:
      uint8 [N, size, size, 3].

    Raises:
      UserError: See `FaceCycle.read`.
      FileNotFoundError: If the one file given is not there.
    """
    check_whole_number(size, name="size")
    array, _, problems = as_images(images, size=size)

    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{problems[0]}{more}")
    return array


def check_side(side: int) -> None:
    """Checks the side of an averaged map.

    Args:
      side: areas along a side; 0 averages none.

    Raises:
      UserError: If it is not a whole number, or negative.
    """
    check_whole_number(side, name="side")
    if side < 0:
        raise UserError(f"side must be 0, to keep the map, or above, got {side}.")


def _check_counts(
    sources: int,
    drivers: int,
    *,
    names: tuple[str, str] = ("source images", "driver images"),
) -> int:
    """Returns the number of pairs, where one face or code on a side is repeated."""
    if sources != drivers and 1 not in (sources, drivers):
        raise UserError(
            f"{sources} {names[0]} and {drivers} {names[1]} do not pair: give equal "
            "numbers, or one on either side."
        )

    # No image on either side gives no pair.
    return max(sources, drivers) if min(sources, drivers) else 0
