"""`facecycle translate`: exchanges motion and identity between faces.

Sources are images, drivers are images or codes. Videos, as a source or a driver, are in
`facecycle_jax.commands.translate_video`.
"""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from etils import epath

from facecycle_jax.commands import (
    codes_file,
    inputs,
    motion_options,
    outputs,
    pasting,
    translate_video,
)
from facecycle_jax.commands.motion_options import Motion
from facecycle_jax.errors import UserError
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.inference.loading import load
from facecycle_jax.paths import given_path
from facecycle_jax.viz import grid, translation_panel

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]


def add(commands: "Subcommands") -> None:
    """Adds the subcommand to what `ArgumentParser.add_subparsers` returned."""
    command = commands.add_parser(
        "translate", help="exchange motion and identity between faces"
    )
    command.add_argument(
        "source", help="image of the person, or a folder of them; with --paste a video"
    )
    command.add_argument(
        "--driver",
        required=True,
        help="image, folder, video or .npz of codes that gives the motion",
    )
    motion_options.add_options(command)
    inputs.add_options(command, several_faces=True)
    pasting.add_options(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes a panel for each pair of source and driver, or a re-enacted video.

    With --paste it writes the photograph or video with the moved face instead.

    Args:
      arguments: those of `add`.

    Returns:
      The exit status.
    """
    inputs.check_which(arguments)
    motion = Motion(arguments)
    driven_by_video = pasting.is_video(arguments.driver)

    if pasting.is_video(arguments.source):
        if not arguments.paste:
            raise pasting.needs_paste(arguments.source)
        if driven_by_video:
            raise UserError(
                "source and driver are both videos; one of them must be an image."
            )
        return translate_video.move(arguments, motion)

    if driven_by_video:
        return translate_video.reenact(arguments, motion)

    pasting.check_max_frames(arguments)
    return _translate_images(arguments, motion)


class _Drivers(NamedTuple):
    """Some of the drivers.

    Attributes:
      indices: their indices among all drivers.
      images: uint8 [N, S, S, 3], or None for codes.
      codes: float32 [N, D], or None where the images are enough.
    """

    indices: list[int]
    images: np.ndarray | None
    codes: np.ndarray | None


class _Pair(NamedTuple):
    """What is written for a source and a driver.

    Attributes:
      source: path of the source.
      driver: index of the driver among all.
      image: uint8 [H, W, 3], or [H, W, 4] with transparency.
      icc_profile: colour profile of the image, or None.
    """

    source: epath.Path
    driver: int
    image: np.ndarray
    icc_profile: bytes | None = None


# File to write for a source and the index of a driver.
_PairFiles = dict[tuple[epath.Path, int], epath.Path]


def _translate_images(arguments: argparse.Namespace, motion: Motion) -> int:
    """Writes a panel or photograph for each pair of source and driver."""
    out = outputs.check_folder_name(arguments.out)
    sources = inputs.find([arguments.source], name="the source")
    found = _find_drivers(arguments)
    motion.check_drivers(len(found.paths))

    # Before any work.
    files = _pair_files(sources, found.paths, out)
    outputs.check_free(
        list(files.values()),
        overwrite=arguments.overwrite,
        sources=[*sources, *found.read],
    )

    model = found.model or load(arguments.model)
    problems = inputs.Problems()
    is_exchange = motion.is_plain and found.codes is None and not arguments.paste

    # Drivers are read once and kept, because every source meets all of them.
    if found.codes is not None:
        kept = [_Drivers(list(range(len(found.codes))), None, found.codes)]
    else:
        kept = _read_drivers(
            arguments, found.paths, problems, model, with_codes=not is_exchange
        )
        if arguments.relative:
            _check_first(kept, problems)

    pairs = _pair_images(
        arguments, motion, sources, kept, problems, model, is_exchange=is_exchange
    )
    done = _write_pairs(pairs, files, problems)
    if done:
        noun = "photograph" if arguments.paste else "panel"
        print(f"Wrote {inputs.counted(done, noun)} to {arguments.out}")
    return problems.status(done)


class _Found(NamedTuple):
    """The drivers that --driver names.

    Attributes:
      paths: their images; of a file of codes, the images that these were computed of.
      read: the files to read.
      codes: float32 [N, D] of a file of codes, else None.
      model: the model, if the drivers needed it, else None.
    """

    paths: list[epath.Path]
    read: list[epath.Path]
    codes: np.ndarray | None = None
    model: FaceCycle | None = None


def _find_drivers(arguments: argparse.Namespace) -> _Found:
    """Finds the drivers, and reads them if they are codes."""
    if not codes_file.is_codes(arguments.driver):
        paths = inputs.find([arguments.driver], name="--driver")
        return _Found(paths=paths, read=paths)

    # Only the model can say whether codes are its own.
    file = given_path(arguments.driver, name="--driver")
    model = load(arguments.model)
    names, codes = codes_file.read_motion_codes(file, model)
    return _Found(
        paths=[epath.Path(name) for name in names],
        read=[file],
        codes=codes,
        model=model,
    )


def _check_first(drivers: list[_Drivers], problems: inputs.Problems) -> None:
    """Raises UserError if the first driver was left out, from which motion counts."""
    if drivers and drivers[0].indices[0] == 0:
        return

    # Drivers are read in order, so the first problem is that of the first driver.
    raise UserError(
        "--relative counts motion from the first driver, and that cannot be used: "
        f"{problems.lines[0]}"
    )


def _write_pairs(
    pairs: Iterator[_Pair], files: _PairFiles, problems: inputs.Problems
) -> int:
    """Writes the images of pairs, and returns how many were written."""
    done = 0
    for pair in pairs:
        done += outputs.save_drawn(
            files[pair.source, pair.driver],
            pair.image,
            problems,
            icc_profile=pair.icc_profile,
        )
    return done


def _pair_files(
    sources: list[epath.Path], drivers: list[epath.Path], out: epath.Path
) -> _PairFiles:
    """Names a PNG for each pair of source and driver."""
    of_source = dict(zip(sources, outputs.output_names(sources), strict=True))
    # By index, because a file of codes may name one path twice.
    of_driver = outputs.output_names(drivers)

    # Two pairs may join to one name: a + b_c and a_b + c.
    indices = range(len(drivers))
    pairs = [(source, index) for source in sources for index in indices]
    joined = outputs.unique(
        [f"{of_source[source]}_{of_driver[index]}" for source, index in pairs]
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
    index_of = {path: index for index, path in enumerate(paths)}
    which = inputs.which_of_driver(arguments)

    found = []
    for kept, images in inputs.chunks(arguments, paths, problems, model, which=which):
        codes = model.motion_code(images) if with_codes else None
        found.append(_Drivers([index_of[path] for path in kept], images, codes))
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
) -> Iterator[_Pair]:
    """Yields what is written for each source and driver."""
    if arguments.paste:
        for path, photograph in pasting.photographs(
            arguments, sources, problems, model
        ):
            faces = model.prepare(photograph.faces)
            for drivers in all_drivers:
                assert drivers.codes is not None
                moved = motion.draw(model, faces, drivers.codes)
                for index, drawn in zip(drivers.indices, moved, strict=True):
                    yield _Pair(
                        source=path,
                        driver=index,
                        image=photograph.paste(drawn),
                        icc_profile=photograph.icc_profile,
                    )
        return

    for kept, images in inputs.chunks(arguments, sources, problems, model):
        for path, image in zip(kept, images, strict=True):
            for drivers in all_drivers:
                if is_exchange:
                    panels = _exchange_panels(model, image, drivers)
                else:
                    panels = _moved_panels(model, motion, image, drivers)
                for index, panel in zip(drivers.indices, panels, strict=True):
                    yield _Pair(source=path, driver=index, image=panel)


def _exchange_panels(
    model: FaceCycle, image: np.ndarray, drivers: _Drivers
) -> Iterator[np.ndarray]:
    """Draws the panel of an exchange with each driver."""
    result = model.translate(image, drivers.images)
    for row in range(len(drivers.indices)):
        yield _pair_panel(model, result, row)


def _moved_panels(
    model: FaceCycle, motion: Motion, image: np.ndarray, drivers: _Drivers
) -> Iterator[np.ndarray]:
    """Draws a panel for each driver: source, its neutral face, driver and result."""
    assert drivers.codes is not None
    neutral = model.neutral(image)[0]
    moved = motion.draw(model, model.prepare(image), drivers.codes)[:, 0]

    for row, result in enumerate(moved):
        cells = {"source": image, "neutral": neutral}
        if drivers.images is not None:
            cells["driver"] = drivers.images[row]
        cells["moved"] = result
        yield grid([list(cells.values())], captions=list(cells))


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
