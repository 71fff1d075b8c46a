"""`facecycle translate` on videos: one that drives, or one whose face is moved."""

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator

import numpy as np
from etils import epath
from PIL import Image
from tqdm import tqdm

from facecycle_jax.commands import codes_file, following, inputs, outputs, pasting
from facecycle_jax.commands.motion_options import Motion
from facecycle_jax.data.images.reading import square
from facecycle_jax.errors import UserError
from facecycle_jax.inference.face_cycle import FaceCycle, PreparedFaces
from facecycle_jax.inference.loading import load
from facecycle_jax.paths import given_path

# Longer side, in pixels, of the frames of a driving video in which faces are followed.
_FOLLOWED_SIDE = 1920


def move(arguments: argparse.Namespace, motion: Motion) -> int:
    """Writes a video whose face has the motion of one driver.

    Args:
      arguments: those of `facecycle translate`; the source is a video.
      motion: how the motion is taken over.

    Returns:
      The exit status.

    Raises:
      UserError: If there are several drivers, or see `pasting.paste_video`.
    """
    if arguments.relative:
        raise UserError("--relative needs a driving video, not a source video.")

    driver = given_path(arguments.driver, name="--driver")
    from_codes = codes_file.is_codes(arguments.driver)
    if not from_codes and len(_find_driver(arguments)) != 1:
        raise UserError(f"one driver moves a video, {driver} has several images.")

    def drawing(model: FaceCycle) -> pasting.Draw:
        if from_codes:
            _, codes = codes_file.read_motion_codes(driver, model)
            if len(codes) != 1:
                raise UserError(f"one driver moves a video, {driver} has {len(codes)}.")
        else:
            codes = model.motion_code(_driver_face(arguments, model))

        def draw(images: np.ndarray) -> np.ndarray:
            faces = model.prepare(images)
            return model.express(faces, motion.codes(model, faces.motion_code, codes))

        return draw

    return pasting.paste_video(arguments, arguments.source, drawing)


def _find_driver(arguments: argparse.Namespace) -> list[epath.Path]:
    """Lists the images that drive."""
    return inputs.find([arguments.driver], name="--driver")


def _driver_face(arguments: argparse.Namespace, model: FaceCycle) -> np.ndarray:
    """Reads the one image that drives; its face is looked for only with --crop."""
    return inputs.read_face(
        _find_driver(arguments)[0],
        size=model.size,
        crop=arguments.crop,
        which=inputs.which_of_driver(arguments),
        framing=model.framing,
    )


def reenact(arguments: argparse.Namespace, motion: Motion) -> int:
    """Writes a video of the source with the motion of the driving video.

    Every frame shows source, driver and result side by side, or with --paste the
    photograph with the moved faces.

    Args:
      arguments: those of `facecycle translate`; the driver is a video.
      motion: how the motion is taken over.

    Returns:
      The exit status.

    Raises:
      UserError: If there are several sources, or an input cannot be used.
      FileExistsError: If the output exists and is not to be replaced.
    """
    from facecycle_jax.data.images.video import (
        MAX_FPS,
        MIN_FPS,
        read_video,
        write_video,
    )

    out = pasting.check_video_output(arguments.out)
    driver = given_path(arguments.driver, name="--driver", local=True)
    sources = inputs.find([arguments.source], name="the source")
    outputs.check_free([out], overwrite=arguments.overwrite, sources=[*sources, driver])
    if len(sources) != 1:
        raise UserError(
            f"a driving video moves one source, {arguments.source} has {len(sources)} "
            "images."
        )

    model = load(arguments.model)
    if arguments.paste:
        return _reenact_pasted(
            arguments, motion, model, source=sources[0], driver=driver, out=out
        )

    source = inputs.read_face(
        sources[0],
        size=model.size,
        crop=arguments.crop,
        which=arguments.which,
        framing=model.framing,
    )
    video = read_video(driver, max_frames=arguments.max_frames)
    drivers = _driving_faces(arguments, model, video.frames)
    count = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal count
        # Once for all frames.
        faces = model.prepare(source)
        with tqdm(unit="frame", disable=not sys.stderr.isatty()) as bar:
            while held := list(itertools.islice(drivers, inputs.CHUNK)):
                yield from _side_by_side(model, motion, source, faces, held)
                count += len(held)
                bar.update(len(held))

    # Slide shows and damaged files state rates that no video is written with.
    fps = min(max(video.fps, MIN_FPS), MAX_FPS)
    write_video(out, frames(), fps=fps)
    print(f"Wrote {out}, {inputs.counted(count, 'frame')}")
    return 0


def _reenact_pasted(
    arguments: argparse.Namespace,
    motion: Motion,
    model: FaceCycle,
    *,
    source: epath.Path,
    driver: epath.Path,
    out: epath.Path,
) -> int:
    """Writes a video of a photograph whose faces move, with the driver's sound."""
    from facecycle_jax.data.images.video import edit_video

    photograph = pasting.read_photograph(
        source, size=model.size, which=arguments.which, framing=model.framing
    )
    faces = model.prepare(photograph.faces)

    def change(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        drivers = _driving_faces(arguments, model, frames)
        smooth = pasting.SmoothColours()
        while held := list(itertools.islice(drivers, inputs.CHUNK)):
            codes = model.motion_code(model.read(held))
            for drawn in motion.draw(model, faces, codes):
                colours = [
                    smooth(index, photograph.image, face, photograph.squares[index])
                    for index, face in enumerate(drawn)
                ]
                yield photograph.paste_frame(drawn, colours)

    count = edit_video(
        driver,
        out,
        change,
        max_frames=arguments.max_frames,
        own_images=False,
    )
    print(f"Wrote {out}, {inputs.counted(count, 'frame')}")
    return 0


def _driving_faces(
    arguments: argparse.Namespace,
    model: FaceCycle,
    frames: Iterable[np.ndarray],
) -> Iterator[np.ndarray]:
    """Yields the faces uint8 [S, S, 3] of the frames of a driving video."""
    if arguments.crop:
        # Frames are held until a face is found, and detection needs no more pixels.
        frames = (_within(frame, _FOLLOWED_SIDE) for frame in frames)
        frames = following.follow_face(
            frames,
            which=inputs.which_of_driver(arguments),
            name=arguments.driver,
            framing=model.framing,
        )

    # Frames are shrunk one by one, because a chunk of large frames needs gigabytes.
    return (square(frame, size=model.size) for frame in frames)


def _within(frame: np.ndarray, side: int) -> np.ndarray:
    """Shrinks a frame uint8 [H, W, 3] whose longer side is above `side` pixels."""
    if max(frame.shape[:2]) <= side:
        return frame

    image = Image.fromarray(frame)
    image.thumbnail((side, side))
    return np.asarray(image)


def _side_by_side(
    model: FaceCycle,
    motion: Motion,
    source: np.ndarray,
    faces: PreparedFaces,
    frames: list[np.ndarray],
) -> Iterator[np.ndarray]:
    """Yields one frame uint8 [4 S, 12 S, 3] for each driving frame [S, S, 3]."""
    drivers = model.read(frames)
    codes = model.motion_code(drivers)
    if not motion.is_plain:
        codes = motion.codes(model, faces.motion_code, codes)
    results = model.express(faces, codes)

    for driver, result in zip(drivers, results, strict=True):
        joined = Image.fromarray(np.concatenate([source, driver, result], axis=1))

        # Four times the size, because encoders blur the colours of images this small.
        larger = (4 * joined.width, 4 * joined.height)
        yield np.asarray(joined.resize(larger, Image.Resampling.BICUBIC))
