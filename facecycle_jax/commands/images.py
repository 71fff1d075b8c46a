"""Pictures in, pictures or codes out.

`facecycle translate`, `frontalize`, `reconstruct` and `encode`.
"""

import argparse
import errno
import io
import itertools
import sys
from collections.abc import Iterable, Iterator
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

# Longer side of the frames of a driving video in which faces are followed.
_FOLLOWED_SIDE = 1920


def add(commands: "Subcommands") -> None:
    """Adds the subcommands to what `ArgumentParser.add_subparsers` returned."""
    translate = commands.add_parser(
        "translate", help="exchange motion and identity between faces"
    )
    translate.add_argument("source", help="picture of the person, or a folder of them")
    translate.add_argument(
        "--driver", required=True, help="picture, folder or video that gives the motion"
    )
    translate.add_argument(
        "--max-frames", type=int, help="of a driving video, at most so many"
    )
    inputs.add_options(translate)
    translate.set_defaults(run=run_translate)
    for name, help_text, run in (
        (
            "frontalize",
            "draw neutral faces, from the front, and mean faces",
            run_frontalize,
        ),
        (
            "reconstruct",
            "draw faces again from their neutral faces and motion",
            run_reconstruct,
        ),
        ("encode", "write motion and identity codes as .npz", run_encode),
    ):
        command = commands.add_parser(name, help=help_text)
        command.add_argument(
            "pictures", nargs="+", help="pictures and folders of pictures"
        )
        inputs.add_options(command)
        command.set_defaults(run=run)


def run_frontalize(arguments: argparse.Namespace) -> int:
    """Writes a panel of input, neutral and, with stage 2, mean face for each picture."""

    def draw(model: FaceCycle, pictures: np.ndarray) -> dict[str, np.ndarray]:
        names = (
            ("input", "neutral", "mean_face")
            if model.has_identity
            else ("input", "neutral")
        )
        drawn = model.outputs(pictures, names)
        return {name.replace("_", " "): value for name, value in drawn.items()}

    return _each(arguments, draw)


def run_reconstruct(arguments: argparse.Namespace) -> int:
    """Writes a panel of input, flow, neutral face and reconstruction for each picture."""

    def draw(model: FaceCycle, pictures: np.ndarray) -> dict[str, np.ndarray]:
        return model.outputs(pictures, ("input", "flow", "neutral", "reconstruction"))

    return _each(arguments, draw)


def _each(arguments: argparse.Namespace, draw) -> int:  # type: ignore[no-untyped-def]
    """Draws one panel for each picture into the folder --out."""
    paths = inputs.find(arguments.pictures)
    out = epath.Path(arguments.out)
    files = {
        path: out / f"{name}.png"
        for path, name in zip(paths, inputs.output_names(paths), strict=True)
    }
    inputs.check_free(
        list(files.values()), overwrite=arguments.overwrite, sources=paths
    )
    model, problems, done = load(arguments.model), inputs.Problems(), 0
    for kept, pictures in _chunks(arguments, paths, problems, model):
        drawn = draw(model, pictures)
        for row, path in enumerate(kept):
            panel = grid(
                [[value[row] for value in drawn.values()]], captions=list(drawn)
            )
            done += _save(files[path], panel, problems)
    print(f"Wrote {inputs.counted(done, 'panel')} to {out}")
    return problems.status(done)


def run_encode(arguments: argparse.Namespace) -> int:
    """Writes codes of pictures: path, motion_code and, with stage 2, identity_code."""
    out = epath.Path(arguments.out)
    if out.suffix != ".npz":
        raise UserError(f"--out must end in .npz, got {out}.")
    paths = inputs.find(arguments.pictures)
    inputs.check_free([out], overwrite=arguments.overwrite, sources=paths)
    model, problems = load(arguments.model), inputs.Problems()
    wanted = (
        ("motion_code", "identity_code") if model.has_identity else ("motion_code",)
    )
    codes: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    names: list[str] = []
    for kept, pictures in _chunks(arguments, paths, problems, model):
        names += [str(path) for path in kept]
        for name, values in model.outputs(pictures, wanted).items():
            codes[name].append(values)
    if names:
        buffer = io.BytesIO()
        arrays = {name: np.concatenate(parts) for name, parts in codes.items() if parts}
        np.savez(buffer, allow_pickle=False, path=np.array(names), **arrays)
        write_whole(out, buffer.getvalue())
        print(f"Wrote the codes of {inputs.counted(len(names), 'picture')} to {out}")
    return problems.status(len(names))


def run_translate(arguments: argparse.Namespace) -> int:
    """Writes a panel of twelve pictures for each pair of source and driver, or a re-enacted video."""
    if epath.Path(arguments.driver).suffix.lower() in VIDEO_SUFFIXES:
        return _reenact(arguments)
    sources, drivers = inputs.find([arguments.source]), inputs.find([arguments.driver])
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

    model, problems, done = load(arguments.model), inputs.Problems(), 0
    with_pictures = list(_chunks(arguments, drivers, problems, model))
    for kept, pictures in _chunks(arguments, sources, problems, model):
        for source, picture in zip(kept, pictures, strict=True):
            for others, other_pictures in with_pictures:
                result = model.translate(picture, other_pictures)
                for row, driver in enumerate(others):
                    done += _save(
                        names[source, driver], _pair_panel(model, result, row), problems
                    )
    print(f"Wrote {inputs.counted(done, 'panel')} to {out}")
    return problems.status(done)


def _save(file: epath.Path, panel: np.ndarray, problems: inputs.Problems) -> bool:
    """Writes a panel.

    False, with a note, if its name is too long for the file system.
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
    """Draws the twelve pictures of a pair, eight of a model of stage 1 alone."""
    pair = {name: value[row] for name, value in result.items()}
    if model.has_identity:
        return translation_panel(pair)
    keys = ("input", "flow", "neutral", "reexpressed")
    rows = [[pair[key][face] for key in keys] for face in range(2)]
    captions = ["input", "flow", "neutral", "other's motion"]
    return grid(rows, captions=captions, row_captions=("source", "driver"))


def _reenact(arguments: argparse.Namespace) -> int:
    """Writes a video of the source with the motion of the driving video.

    Source, driver, result.
    """
    from facecycle_jax.data.images.video import FORMATS, read_video, write_video

    out = epath.Path(arguments.out)
    if out.suffix.lower() not in FORMATS:
        raise UserError(
            f"--out must end in {', '.join(FORMATS)} for a driving video, got {arguments.out}."
        )
    inputs.check_free([out], overwrite=arguments.overwrite)
    sources = inputs.find([arguments.source])
    if len(sources) != 1:
        raise UserError(
            f"a driving video moves one source, {arguments.source} has {len(sources)} pictures."
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
        # Frames wait until a face is found, and detection uses no more pixels than
        # this.
        frames_read = (_within(frame, _FOLLOWED_SIDE) for frame in frames_read)
        frames_read = inputs.follow_face(
            frames_read,
            which=arguments.which,
            name=arguments.driver,
            framing=model.framing,
        )
    # Shrunk one by one: a chunk of large frames takes gigabytes.
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
    drivers = model.read(frames)
    for driver, drawn in zip(drivers, model.reexpress(source, drivers), strict=True):
        joined = Image.fromarray(np.concatenate([source, driver, drawn], axis=1))
        # Four times the size: encoders blur the colours of pictures this small.
        yield np.asarray(
            joined.resize(
                (4 * joined.width, 4 * joined.height), Image.Resampling.BICUBIC
            )
        )


def _chunks(
    arguments: argparse.Namespace,
    paths: list[epath.Path],
    problems: inputs.Problems,
    model: FaceCycle,
) -> Iterator[tuple[list[epath.Path], np.ndarray]]:
    return inputs.chunks(
        paths,
        problems,
        size=model.size,
        crop=arguments.crop,
        which=arguments.which,
        framing=model.framing,
    )
