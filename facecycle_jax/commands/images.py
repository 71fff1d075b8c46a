"""Commands on images: `facecycle translate`, `frontalize`, `reconstruct`, `encode`."""

import argparse
import errno
import io
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from etils import epath
from PIL import Image
from tqdm import tqdm

from facecycle_jax.commands import inputs
from facecycle_jax.data.images.media_files import VIDEO_SUFFIXES
from facecycle_jax.data.images.reading import square
from facecycle_jax.errors import UserError
from facecycle_jax.files import write_whole
from facecycle_jax.inference.face_cycle import FaceCycle, load
from facecycle_jax.viz import grid, save_png, translation_panel

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

# Longer side, in pixels, of the frames of a driving video in which faces are followed.
_FOLLOWED_SIDE = 1920


def add(commands: "Subcommands") -> None:
    """Adds the subcommands to what `ArgumentParser.add_subparsers` returned."""
    translate = commands.add_parser(
        "translate", help="exchange motion and identity between faces"
    )
    translate.add_argument("source", help="image of the person, or a folder of them")
    translate.add_argument(
        "--driver", required=True, help="image, folder or video that gives the motion"
    )
    translate.add_argument(
        "--max-frames", type=int, help="most frames that are read of a driving video"
    )
    inputs.add_options(translate)
    translate.set_defaults(run=run_translate)

    frontalize = commands.add_parser(
        "frontalize", help="draw neutral faces, from the front, and mean faces"
    )
    frontalize.set_defaults(run=run_frontalize)

    reconstruct = commands.add_parser(
        "reconstruct", help="draw faces again from their neutral faces and motion"
    )
    reconstruct.set_defaults(run=run_reconstruct)

    encode = commands.add_parser(
        "encode", help="write motion and identity codes as .npz"
    )
    encode.set_defaults(run=run_encode)

    for command in (frontalize, reconstruct, encode):
        command.add_argument("images", nargs="+", help="images and folders of images")
        inputs.add_options(command)


def run_frontalize(arguments: argparse.Namespace) -> int:
    """Writes a panel of input, neutral and, with stage 2, mean face for each image.

    Args:
      arguments: those of `add`.

    Returns:
      The exit status.
    """

    def draw(model: FaceCycle, images: np.ndarray) -> dict[str, np.ndarray]:
        names = ["input", "neutral"]
        if model.has_identity:
            names.append("mean_face")
        drawn = model.outputs(images, names)
        return {name.replace("_", " "): value for name, value in drawn.items()}

    return _each(arguments, draw)


def run_reconstruct(arguments: argparse.Namespace) -> int:
    """Writes a panel of input, flow, neutral face and reconstruction for each image.

    Args:
      arguments: those of `add`.

    Returns:
      The exit status.
    """

    def draw(model: FaceCycle, images: np.ndarray) -> dict[str, np.ndarray]:
        return model.outputs(images, ("input", "flow", "neutral", "reconstruction"))

    return _each(arguments, draw)


def _each(
    arguments: argparse.Namespace,
    draw: Callable[[FaceCycle, np.ndarray], dict[str, np.ndarray]],
) -> int:
    """Draws one panel for each image into the folder --out."""
    paths = inputs.find(arguments.images)
    out = epath.Path(arguments.out)
    names = inputs.output_names(paths)
    files = {path: out / f"{name}.png" for path, name in zip(paths, names, strict=True)}

    # Before any work.
    inputs.check_free(
        list(files.values()), overwrite=arguments.overwrite, sources=paths
    )

    model = load(arguments.model)
    problems = inputs.Problems()
    done = 0
    for kept, images in _chunks(arguments, paths, problems, model):
        drawn = draw(model, images)
        for row, path in enumerate(kept):
            cells = [value[row] for value in drawn.values()]
            panel = grid([cells], captions=list(drawn))
            done += _save(files[path], panel, problems)

    print(f"Wrote {inputs.counted(done, 'panel')} to {out}")
    return problems.status(done)


def run_encode(arguments: argparse.Namespace) -> int:
    """Writes codes of images: path, motion_code and, with stage 2, identity_code.

    Args:
      arguments: those of `add`.

    Returns:
      The exit status.

    Raises:
      UserError: If --out is no .npz or there is no image.
    """
    out = epath.Path(arguments.out)
    if out.suffix != ".npz":
        raise UserError(f"--out must end in .npz, got {out}.")

    paths = inputs.find(arguments.images)
    inputs.check_free([out], overwrite=arguments.overwrite, sources=paths)

    model = load(arguments.model)
    problems = inputs.Problems()
    wanted = ["motion_code"]
    if model.has_identity:
        wanted.append("identity_code")

    codes: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    names: list[str] = []
    for kept, images in _chunks(arguments, paths, problems, model):
        names += [str(path) for path in kept]
        for name, values in model.outputs(images, wanted).items():
            codes[name].append(values)

    # Without a single image there is no file either.
    if names:
        buffer = io.BytesIO()
        arrays = {name: np.concatenate(parts) for name, parts in codes.items()}
        np.savez(buffer, allow_pickle=False, path=np.array(names), **arrays)
        write_whole(out, buffer.getvalue())
        print(f"Wrote the codes of {inputs.counted(len(names), 'image')} to {out}")
    return problems.status(len(names))


def run_translate(arguments: argparse.Namespace) -> int:
    """Writes a panel for each pair of source and driver, or a re-enacted video.

    Args:
      arguments: those of `add`.

    Returns:
      The exit status.
    """
    if epath.Path(arguments.driver).suffix.lower() in VIDEO_SUFFIXES:
        return _reenact(arguments)

    sources = inputs.find([arguments.source])
    drivers = inputs.find([arguments.driver])
    out = epath.Path(arguments.out)
    of_source = dict(zip(sources, inputs.output_names(sources), strict=True))
    of_driver = dict(zip(drivers, inputs.output_names(drivers), strict=True))

    # Two pairs may join to one name: a + b_c and a_b + c.
    pairs = [(source, driver) for source in sources for driver in drivers]
    joined = inputs.unique(
        [f"{of_source[source]}_{of_driver[driver]}" for source, driver in pairs]
    )
    names = {
        pair: out / f"{name}.png" for pair, name in zip(pairs, joined, strict=True)
    }
    inputs.check_free(
        list(names.values()),
        overwrite=arguments.overwrite,
        sources=[*sources, *drivers],
    )

    model = load(arguments.model)
    problems = inputs.Problems()
    done = 0

    # Drivers are read once and kept, because every source meets all of them.
    all_drivers = list(_chunks(arguments, drivers, problems, model))
    for kept, images in _chunks(arguments, sources, problems, model):
        for source, image in zip(kept, images, strict=True):
            for others, other_images in all_drivers:
                result = model.translate(image, other_images)
                for row, driver in enumerate(others):
                    panel = _pair_panel(model, result, row)
                    done += _save(names[source, driver], panel, problems)

    print(f"Wrote {inputs.counted(done, 'panel')} to {out}")
    return problems.status(done)


def _save(file: epath.Path, panel: np.ndarray, problems: inputs.Problems) -> bool:
    """Writes a panel.

    A name that is too long for the file system is a problem, and gives False.
    """
    try:
        save_png(file, panel)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        problems.lines.append(
            f"{file}: the name of this output is too long for the file system."
        )
        return False
    return True


def _pair_panel(
    model: FaceCycle, result: dict[str, np.ndarray], row: int
) -> np.ndarray:
    """Draws the twelve images of a pair, or eight of a model of stage 1 alone."""
    pair = {name: value[row] for name, value in result.items()}
    if model.has_identity:
        return translation_panel(pair)

    keys = ("input", "flow", "neutral", "reexpressed")
    rows = [[pair[key][face] for key in keys] for face in range(2)]
    captions = ["input", "flow", "neutral", "other's motion"]
    return grid(rows, captions=captions, row_captions=("source", "driver"))


def _reenact(arguments: argparse.Namespace) -> int:
    """Writes a video of the source with the motion of the driving video.

    Every frame shows source, driver and result side by side.
    """
    from facecycle_jax.data.images.video import FORMATS, read_video, write_video

    out = epath.Path(arguments.out)
    if out.suffix.lower() not in FORMATS:
        raise UserError(
            f"--out must end in {', '.join(FORMATS)} for a driving video, got "
            f"{arguments.out}."
        )
    inputs.check_free([out], overwrite=arguments.overwrite)

    sources = inputs.find([arguments.source])
    if len(sources) != 1:
        raise UserError(
            f"a driving video moves one source, {arguments.source} has {len(sources)} "
            "images."
        )

    model = load(arguments.model)
    source = inputs.read_face(
        sources[0],
        size=model.size,
        crop=arguments.crop,
        which=arguments.which,
        framing=model.framing,
    )

    video = read_video(arguments.driver, max_frames=arguments.max_frames)
    frames_read: Iterable[np.ndarray] = video.frames
    if arguments.crop:
        # Frames are held until a face is found, and detection needs no more pixels.
        frames_read = (_within(frame, _FOLLOWED_SIDE) for frame in frames_read)
        frames_read = inputs.follow_face(
            frames_read,
            which=arguments.which,
            name=arguments.driver,
            framing=model.framing,
        )

    # Frames are shrunk one by one, because a chunk of large frames needs gigabytes.
    drivers = (square(frame, size=model.size) for frame in frames_read)
    count = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal count
        with tqdm(unit="frame", disable=not sys.stderr.isatty()) as bar:
            while held := list(itertools.islice(drivers, inputs.CHUNK)):
                yield from _side_by_side(model, source, held)
                count += len(held)
                bar.update(len(held))

    write_video(out, frames(), fps=video.fps)
    print(f"Wrote {out}, {inputs.counted(count, 'frame')}")
    return 0


def _within(frame: np.ndarray, side: int) -> np.ndarray:
    """Shrinks a frame uint8 [H, W, 3] whose longer side is above `side` pixels."""
    if max(frame.shape[:2]) <= side:
        return frame

    image = Image.fromarray(frame)
    image.thumbnail((side, side))
    return np.asarray(image)


def _side_by_side(
    model: FaceCycle, source: np.ndarray, frames: list[np.ndarray]
) -> Iterator[np.ndarray]:
    """Yields one frame uint8 [4 S, 12 S, 3] for each driving frame [S, S, 3]."""
    drivers = model.read(frames)
    results = model.reexpress(source, drivers)

    for driver, result in zip(drivers, results, strict=True):
        joined = Image.fromarray(np.concatenate([source, driver, result], axis=1))

        # Four times the size, because encoders blur the colours of images this small.
        larger = (4 * joined.width, 4 * joined.height)
        yield np.asarray(joined.resize(larger, Image.Resampling.BICUBIC))


def _chunks(
    arguments: argparse.Namespace,
    paths: list[epath.Path],
    problems: inputs.Problems,
    model: FaceCycle,
) -> Iterator[tuple[list[epath.Path], np.ndarray]]:
    """Reads images as the command line and the model require them."""
    return inputs.chunks(
        paths,
        problems,
        size=model.size,
        crop=arguments.crop,
        which=arguments.which,
        framing=model.framing,
    )
