"""Commands on images: `facecycle translate`, `frontalize`, `reconstruct`, `encode`."""

import argparse
import errno
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from etils import epath
from PIL import Image
from tqdm import tqdm

from facecycle_jax.commands import codes_file, inputs, motion_options, pasting
from facecycle_jax.commands.motion_options import Motion
from facecycle_jax.data.images.reading import square
from facecycle_jax.errors import UserError
from facecycle_jax.inference.face_cycle import FaceCycle, PreparedFaces, load
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
    translate.add_argument(
        "source", help="image of the person, or a folder of them; with --paste a video"
    )
    translate.add_argument(
        "--driver",
        required=True,
        help="image, folder, video or .npz of codes that gives the motion",
    )
    motion_options.add_options(translate)
    inputs.add_options(translate, several_faces=True)
    translate.set_defaults(run=run_translate)

    frontalize = commands.add_parser(
        "frontalize", help="draw neutral faces, from the front, and mean faces"
    )
    frontalize.set_defaults(run=run_frontalize)

    for command in (translate, frontalize):
        pasting.add_option(command)
        command.add_argument(
            "--max-frames", type=int, help="most frames that are read of a video"
        )

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
        inputs.add_options(command, several_faces=command is frontalize)


def run_frontalize(arguments: argparse.Namespace) -> int:
    """Writes a panel of input, neutral and, with stage 2, mean face for each image.

    With --paste it writes the photograph or video with the neutral face instead.

    Args:
      arguments: those of `add`.

    Returns:
      The exit status.
    """
    pasting.check_which(arguments)
    if arguments.paste:
        return _frontalize_pasted(arguments)

    def draw(model: FaceCycle, images: np.ndarray) -> dict[str, np.ndarray]:
        names = ["input", "neutral"]
        if model.has_identity:
            names.append("mean_face")
        drawn = model.outputs(images, names)
        return {name.replace("_", " "): value for name, value in drawn.items()}

    return _each(arguments, draw)


def _frontalize_pasted(arguments: argparse.Namespace) -> int:
    """Writes photographs, or one video, with neutral faces."""
    if len(arguments.images) == 1 and pasting.is_video(arguments.images[0]):
        (video,) = arguments.images
        return _paste_video(arguments, video, lambda model: model.neutral)

    paths = inputs.find(arguments.images)
    files = _named_after(paths, arguments)

    model = load(arguments.model)
    problems = inputs.Problems()
    done = 0
    for path, photograph in _photographs(arguments, paths, problems, model):
        drawn = model.neutral(photograph.faces)
        done += _save(files[path], photograph.paste(drawn), problems)

    print(f"Wrote {inputs.counted(done, 'photograph')} to {arguments.out}")
    return problems.status(done)


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
    files = _named_after(paths, arguments)

    model = load(arguments.model)
    problems = inputs.Problems()
    done = 0
    for kept, images in _chunks(arguments, paths, problems, model):
        drawn = draw(model, images)
        for row, path in enumerate(kept):
            cells = [value[row] for value in drawn.values()]
            panel = grid([cells], captions=list(drawn))
            done += _save(files[path], panel, problems)

    print(f"Wrote {inputs.counted(done, 'panel')} to {arguments.out}")
    return problems.status(done)


def _named_after(
    paths: list[epath.Path], arguments: argparse.Namespace
) -> dict[epath.Path, epath.Path]:
    """Names a PNG in --out for each image, and checks that it may be written."""
    out = epath.Path(arguments.out)
    names = inputs.output_names(paths)
    files = {path: out / f"{name}.png" for path, name in zip(paths, names, strict=True)}
    inputs.check_free(
        list(files.values()), overwrite=arguments.overwrite, sources=paths
    )
    return files


def run_encode(arguments: argparse.Namespace) -> int:
    """Writes codes of images, see `codes_file`.

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
        arrays = {name: np.concatenate(parts) for name, parts in codes.items()}
        codes_file.write_codes(out, model, paths=names, codes=arrays)
        print(f"Wrote the codes of {inputs.counted(len(names), 'image')} to {out}")
    return problems.status(len(names))


def run_translate(arguments: argparse.Namespace) -> int:
    """Writes a panel for each pair of source and driver, or a re-enacted video.

    With --paste it writes the photograph or video with the moved face instead.

    Args:
      arguments: those of `add`.

    Returns:
      The exit status.
    """
    pasting.check_which(arguments)
    motion = Motion(arguments)
    driven_by_video = pasting.is_video(arguments.driver)

    if pasting.is_video(arguments.source):
        if not arguments.paste:
            raise UserError(
                f"{arguments.source} is a video: use --paste, which draws its face "
                "anew in every frame."
            )
        if driven_by_video:
            raise UserError(
                "source and driver are both videos; one of them must be an image."
            )
        return _move_video(arguments, motion)

    if driven_by_video:
        return _reenact(arguments, motion)
    return _translate_images(arguments, motion)


class _Drivers(NamedTuple):
    """Some of the drivers.

    Attributes:
      places: their places among all drivers.
      images: uint8 [N, S, S, 3], or None for codes.
      codes: float32 [N, D], or None where the images are enough.
    """

    places: list[int]
    images: np.ndarray | None
    codes: np.ndarray | None


# File to write for a source and the place of a driver.
_PairFiles = dict[tuple[epath.Path, int], epath.Path]


def _translate_images(arguments: argparse.Namespace, motion: Motion) -> int:
    """Writes a panel or photograph for each pair of source and driver."""
    sources = inputs.find([arguments.source])
    codes_of = epath.Path(arguments.driver)
    model = None

    # Only the model can say whether codes are its own.
    if _is_codes(arguments.driver):
        model = load(arguments.model)
        names, codes = codes_file.read_motion_codes(codes_of, model)
        drivers = [epath.Path(name) for name in names]
        read = [codes_of]
    else:
        codes = None
        drivers = inputs.find([arguments.driver])
        read = drivers
    motion.check_drivers(len(drivers))

    # Before any work.
    files = _pair_files(sources, drivers, epath.Path(arguments.out))
    inputs.check_free(
        list(files.values()),
        overwrite=arguments.overwrite,
        sources=[*sources, *read],
    )

    model = model or load(arguments.model)
    problems = inputs.Problems()
    is_exchange = motion.is_plain and codes is None and not arguments.paste

    # Drivers are read once and kept, because every source meets all of them.
    if codes is not None:
        kept = [_Drivers(list(range(len(codes))), None, codes)]
    else:
        kept = _read_drivers(
            arguments, drivers, problems, model, with_codes=not is_exchange
        )

    done = 0
    for source, place, image in _pair_images(
        arguments, motion, sources, kept, problems, model, is_exchange=is_exchange
    ):
        done += _save(files[source, place], image, problems)

    noun = "photograph" if arguments.paste else "panel"
    print(f"Wrote {inputs.counted(done, noun)} to {arguments.out}")
    return problems.status(done)


def _is_codes(driver: str) -> bool:
    """Whether a driver is a file of codes, by its ending."""
    return driver.lower().endswith(codes_file.SUFFIX)


def _pair_files(
    sources: list[epath.Path], drivers: list[epath.Path], out: epath.Path
) -> _PairFiles:
    """Names a PNG for each pair of source and driver."""
    of_source = dict(zip(sources, inputs.output_names(sources), strict=True))
    # By place, because a file of codes may name one path twice.
    of_driver = inputs.output_names(drivers)

    # Two pairs may join to one name: a + b_c and a_b + c.
    places = range(len(drivers))
    pairs = [(source, place) for source in sources for place in places]
    joined = inputs.unique(
        [f"{of_source[source]}_{of_driver[place]}" for source, place in pairs]
    )
    return {pair: out / f"{name}.png" for pair, name in zip(pairs, joined, strict=True)}


def _read_drivers(
    arguments: argparse.Namespace,
    paths: list[epath.Path],
    problems: inputs.Problems,
    model: FaceCycle,
    *,
    with_codes: bool,
) -> list[_Drivers]:
    """Reads the images of drivers and, if they are needed, computes their codes."""
    place_of = {path: place for place, path in enumerate(paths)}
    which = _which_of_driver(arguments)

    found = []
    for kept, images in _chunks(arguments, paths, problems, model, which=which):
        codes = model.motion_code(images) if with_codes else None
        found.append(_Drivers([place_of[path] for path in kept], images, codes))
    return found


def _pair_images(
    arguments: argparse.Namespace,
    motion: Motion,
    sources: list[epath.Path],
    all_drivers: list[_Drivers],
    problems: inputs.Problems,
    model: FaceCycle,
    *,
    is_exchange: bool,
) -> Iterator[tuple[epath.Path, int, np.ndarray]]:
    """Yields source, place of the driver, and what is written for the two."""
    if arguments.paste:
        for path, photograph in _photographs(arguments, sources, problems, model):
            faces = model.prepare(photograph.faces)
            for drivers in all_drivers:
                moved = _move_faces(model, motion, faces, drivers.codes)
                for place, drawn in zip(drivers.places, moved, strict=True):
                    yield path, place, photograph.paste(drawn)
        return

    for kept, images in _chunks(arguments, sources, problems, model):
        for path, image in zip(kept, images, strict=True):
            for drivers in all_drivers:
                if is_exchange:
                    panels = _exchange_panels(model, image, drivers)
                else:
                    panels = _moved_panels(model, motion, image, drivers)
                for place, panel in zip(drivers.places, panels, strict=True):
                    yield path, place, panel


def _exchange_panels(
    model: FaceCycle, image: np.ndarray, drivers: _Drivers
) -> Iterator[np.ndarray]:
    """Draws the panel of an exchange with each driver."""
    result = model.translate(image, drivers.images)
    for row in range(len(drivers.places)):
        yield _pair_panel(model, result, row)


def _move_faces(
    model: FaceCycle, motion: Motion, faces: PreparedFaces, codes: np.ndarray | None
) -> np.ndarray:
    """Draws F prepared faces with the motion of N codes: uint8 [N, F, S, S, 3]."""
    assert codes is not None
    drawn = []
    for place in range(len(faces.motion_code)):
        face = faces.take(slice(place, place + 1))
        moved = motion.codes(model, face.motion_code, codes)
        drawn.append(model.express(face, moved))
    return np.stack(drawn, axis=1)


def _moved_panels(
    model: FaceCycle, motion: Motion, image: np.ndarray, drivers: _Drivers
) -> Iterator[np.ndarray]:
    """Draws a panel for each driver: source, its neutral face, driver and result."""
    neutral = model.neutral(image)[0]
    moved = _move_faces(model, motion, model.prepare(image), drivers.codes)[:, 0]

    for row, result in enumerate(moved):
        cells = {"source": image, "neutral": neutral}
        if drivers.images is not None:
            cells["driver"] = drivers.images[row]
        cells["moved"] = result
        yield grid([list(cells.values())], captions=list(cells))


def _move_video(arguments: argparse.Namespace, motion: Motion) -> int:
    """Writes a video whose face has the motion of one driver."""
    if arguments.relative:
        raise UserError("--relative needs a driving video, not a source video.")

    driver = epath.Path(arguments.driver)
    from_codes = _is_codes(arguments.driver)
    if not from_codes and len(inputs.find([arguments.driver])) != 1:
        raise UserError(f"one driver moves a video, {driver} has several images.")

    def drawing(model: FaceCycle) -> Callable[[np.ndarray], np.ndarray]:
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

    return _paste_video(arguments, arguments.source, drawing)


def _which_of_driver(arguments: argparse.Namespace) -> str | int:
    """Returns the face to take of a driver."""
    # With --paste the option names the faces of the photograph.
    which: str | int = "largest" if arguments.paste else arguments.which
    return which


def _driver_face(arguments: argparse.Namespace, model: FaceCycle) -> np.ndarray:
    """Reads the one image that drives; its face is looked for only with --crop."""
    return inputs.read_face(
        inputs.find([arguments.driver])[0],
        size=model.size,
        crop=arguments.crop,
        which=_which_of_driver(arguments),
        framing=model.framing,
    )


def _paste_video(
    arguments: argparse.Namespace,
    video: str,
    drawing: Callable[[FaceCycle], Callable[[np.ndarray], np.ndarray]],
) -> int:
    """Writes a video in which a face is drawn anew."""
    out = pasting.check_video_output(arguments.out)
    inputs.check_free([out], overwrite=arguments.overwrite, sources=[epath.Path(video)])

    model = load(arguments.model)
    count = pasting.paste_video(
        video,
        out,
        draw=drawing(model),
        size=model.size,
        which=arguments.which,
        framing=model.framing,
        max_frames=arguments.max_frames,
    )
    print(f"Wrote {out}, {inputs.counted(count, 'frame')}")
    return 0


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


def _reenact(arguments: argparse.Namespace, motion: Motion) -> int:
    """Writes a video of the source with the motion of the driving video.

    Every frame shows source, driver and result side by side, or with --paste the
    photograph with the moved faces.
    """
    from facecycle_jax.data.images.video import read_video, write_video

    out = pasting.check_video_output(arguments.out)
    sources = inputs.find([arguments.source])
    inputs.check_free(
        [out],
        overwrite=arguments.overwrite,
        sources=[*sources, epath.Path(arguments.driver)],
    )
    if len(sources) != 1:
        raise UserError(
            f"a driving video moves one source, {arguments.source} has {len(sources)} "
            "images."
        )

    model = load(arguments.model)
    if arguments.paste:
        return _reenact_pasted(arguments, motion, model, sources[0], out)

    source = inputs.read_face(
        sources[0],
        size=model.size,
        crop=arguments.crop,
        which=arguments.which,
        framing=model.framing,
    )
    video = read_video(arguments.driver, max_frames=arguments.max_frames)
    drivers = _driving_faces(arguments, model, video.frames, crop=arguments.crop)
    count = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal count
        with tqdm(unit="frame", disable=not sys.stderr.isatty()) as bar:
            while held := list(itertools.islice(drivers, inputs.CHUNK)):
                yield from _side_by_side(model, motion, source, held)
                count += len(held)
                bar.update(len(held))

    write_video(out, frames(), fps=video.fps)
    print(f"Wrote {out}, {inputs.counted(count, 'frame')}")
    return 0


def _driving_faces(
    arguments: argparse.Namespace,
    model: FaceCycle,
    frames: Iterable[np.ndarray],
    *,
    crop: bool,
) -> Iterator[np.ndarray]:
    """Yields the faces uint8 [S, S, 3] of the frames of a driving video."""
    if crop:
        # Frames are held until a face is found, and detection needs no more pixels.
        frames = (_within(frame, _FOLLOWED_SIDE) for frame in frames)
        frames = inputs.follow_face(
            frames,
            which=_which_of_driver(arguments),
            name=arguments.driver,
            framing=model.framing,
        )

    # Frames are shrunk one by one, because a chunk of large frames needs gigabytes.
    return (square(frame, size=model.size) for frame in frames)


def _reenact_pasted(
    arguments: argparse.Namespace,
    motion: Motion,
    model: FaceCycle,
    source: epath.Path,
    out: epath.Path,
) -> int:
    """Writes a video of a photograph whose faces move, with the driver's sound."""
    from facecycle_jax.data.images.video import edit_video

    photograph = pasting.read_photograph(
        source, size=model.size, which=arguments.which, framing=model.framing
    )
    faces = model.prepare(photograph.faces)

    def change(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        drivers = _driving_faces(arguments, model, frames, crop=arguments.crop)
        smooth = pasting.SmoothColours()
        while held := list(itertools.islice(drivers, inputs.CHUNK)):
            codes = model.motion_code(model.read(held))
            for drawn in _move_faces(model, motion, faces, codes):
                colours = [
                    smooth(place, photograph.image, face, photograph.squares[place])
                    for place, face in enumerate(drawn)
                ]
                yield photograph.paste(drawn, colours=colours)

    count = edit_video(arguments.driver, out, change, max_frames=arguments.max_frames)
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
    model: FaceCycle, motion: Motion, source: np.ndarray, frames: list[np.ndarray]
) -> Iterator[np.ndarray]:
    """Yields one frame uint8 [4 S, 12 S, 3] for each driving frame [S, S, 3]."""
    drivers = model.read(frames)
    if motion.is_plain:
        results = model.reexpress(source, drivers)
    else:
        faces = model.prepare(source)
        codes = motion.codes(model, faces.motion_code, model.motion_code(drivers))
        results = model.express(faces, codes)

    for driver, result in zip(drivers, results, strict=True):
        joined = Image.fromarray(np.concatenate([source, driver, result], axis=1))

        # Four times the size, because encoders blur the colours of images this small.
        larger = (4 * joined.width, 4 * joined.height)
        yield np.asarray(joined.resize(larger, Image.Resampling.BICUBIC))


def _photographs(
    arguments: argparse.Namespace,
    paths: list[epath.Path],
    problems: inputs.Problems,
    model: FaceCycle,
) -> Iterator[tuple[epath.Path, pasting.Photograph]]:
    """Reads photographs as the command line and the model require them."""
    return pasting.photographs(
        paths,
        problems,
        size=model.size,
        which=arguments.which,
        framing=model.framing,
    )


def _chunks(
    arguments: argparse.Namespace,
    paths: list[epath.Path],
    problems: inputs.Problems,
    model: FaceCycle,
    *,
    which: str | int | None = None,
) -> Iterator[tuple[list[epath.Path], np.ndarray]]:
    """Reads images as the command line and the model require them."""
    return inputs.chunks(
        paths,
        problems,
        size=model.size,
        crop=arguments.crop,
        which=arguments.which if which is None else which,
        framing=model.framing,
    )
