"""Reading: images of any kind become one batch, uint8 [N, size, size, 3], RGB, 0..255.

Files are read with Pillow. What it can open and decode within the limits below counts
as an image.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from etils import epath
from PIL import ExifTags, Image, ImageFile

from facecycle_jax.data.images.media_files import (
    IMAGE_FORMATS,
    IMAGE_SUFFIXES,
    is_image_name,
    is_remote,
    open_image_file,
    walk,
)
from facecycle_jax.errors import UserError
from facecycle_jax.paths import given_path

# Images of more pixels are refused unread. Cameras of telephones reach 50 megapixels.
# Decoding takes up to 4 bytes a pixel and the result 3, so 450 MB at most.
MAX_PIXELS = 64_000_000
# Images of more pixels are reduced during decoding, if the caller needs fewer.
REDUCE_ABOVE = 16_000_000
# A reduced image keeps this many times the side that is needed, so that resizing still
# antialiases.
_SPARE = 4
# Pixels converted at once; at most 24 bytes each are in use then.
_STRIP_PIXELS = 1_000_000
FITS = ("crop", "stretch")
# Place of the colour space in a colour profile, and its value in profiles of RGB.
_PROFILE_SPACE = slice(16, 20)
_RGB_SPACE = b"RGB "


def as_images(
    inputs: Any, *, size: int, fit: str = "crop"
) -> tuple[np.ndarray, list[str], list[str]]:
    """Brings images of any source, size and mode into one batch.

    Args:
      inputs: a path of an image, or of a folder (searched recursively for image
        files, in the order of their paths); a PIL image; a uint8 array [H, W], [H, W,
        1], [H, W, 3], [H, W, 4] or [N, H, W, 3]; or a sequence of these. Transparent
        parts become white, 16-bit images are scaled to 8, EXIF rotation is applied,
        and of an animation the first frame is used.
      size: side of the result, in pixels.
      fit: how an image becomes square: 'crop' keeps the middle, 'stretch' keeps all of
        it.

    Returns:
      The images, uint8 [N, size, size, 3]; their names (the path, or `image 3` by
      place); and one line for each that could not be read and was left out.

    Raises:
      UserError: If a single image cannot be read, a folder has no image file, or
        `inputs` is of another kind or floating point. An array of a wrong type or shape
        is never left out silently.
      FileNotFoundError: If the one path given does not exist.
    """
    if size < 1 or fit not in FITS:
        raise UserError(
            f"size must be at least 1 and fit one of {FITS}, got {size} and {fit!r}."
        )

    images = []
    names = []
    problems = []
    alone = _is_single(inputs)

    for name, item in _items(inputs):
        is_array = isinstance(item, np.ndarray)
        try:
            image = item if is_array else read_image(item, at_least=size)
            image = square(array_to_rgb(image), size=size, fit=fit)
        except (ValueError, FileNotFoundError) as error:
            # A wrong array is the caller's mistake; a damaged file may be left out.
            if alone or is_array:
                raise
            message = str(error)
            problems.append(message if name in message else f"{name}: {message}")
            continue

        images.append(image)
        names.append(name)

    if not images:
        return np.zeros((0, size, size, 3), np.uint8), names, problems

    return np.stack(images), names, problems


def read_image(
    source: epath.PathLike | Image.Image, *, at_least: int = 0
) -> np.ndarray:
    """Reads one image file, or converts a PIL image, to RGB.

    Args:
      source: a path, local or in the cloud, or a PIL image, which keeps its size.
      at_least: pixels of the shorter side that the caller needs, or 0 for the image's
        own size. An image of more than `REDUCE_ABOVE` pixels is then reduced while
        decoding, to no less than four times as many.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UserError: If it is not an image, is damaged or has more than `MAX_PIXELS` pixels.
        The message names the file.
      FileNotFoundError: If there is no such file.
    """
    if isinstance(source, Image.Image):
        with one_sentence("the image"):
            # Drafting would shrink the caller's own image.
            return to_rgb(source, at_least, draft=False)

    name = os.fspath(given_path(source, name=_GIVEN))
    with (
        open_image_file(name) as file,
        one_sentence(name),
        open_image(file) as image,
    ):
        return to_rgb(image, at_least)


class WholeImage(NamedTuple):
    """An image, and what its file holds besides.

    Attributes:
      image: uint8 [H, W, 3], with transparent parts white, as `read_image` gives it.
      colour: uint8 [H, W, 3], the colours under transparent parts; without any, the
        same array as `image`.
      alpha: uint8 [H, W], 0 where the image is transparent; None for opaque images.
      icc_profile: colour profile of the RGB values, or None.
    """

    image: np.ndarray
    colour: np.ndarray
    alpha: np.ndarray | None
    icc_profile: bytes | None


def read_whole_image(path: epath.PathLike) -> WholeImage:
    """Reads one image file with its transparency and colour profile.

    Args:
      path: the file, local or in the cloud.

    Returns:
      The image at its own size, upright. A profile of grey or CMYK values is left out,
      because it does not fit the RGB values.

    Raises:
      UserError: See `read_image`.
      FileNotFoundError: If there is no such file.
    """
    with (
        open_image_file(path) as file,
        one_sentence(os.fspath(path)),
        open_image(file) as image,
    ):
        opaque = to_rgb(image)
        profile = image.info.get("icc_profile")
        if not profile or profile[_PROFILE_SPACE] != _RGB_SPACE:
            profile = None

        # Grey images of more than 8 bits are read without their transparency.
        if _is_deep(image) or not image.has_transparency_data:
            return WholeImage(
                image=opaque, colour=opaque, alpha=None, icc_profile=profile
            )

        colour = _upright(image, _without_alpha, 1)
        # The same value in all three channels.
        alpha = np.ascontiguousarray(_upright(image, _alpha, 1)[..., 0])
        return WholeImage(image=opaque, colour=colour, alpha=alpha, icc_profile=profile)


def open_image(file: BinaryIO) -> ImageFile.ImageFile:
    """Opens an image in one of `IMAGE_FORMATS` with Pillow.

    Other files may raise any exception, see `one_sentence`.
    """
    Image.init()

    # Older versions of Pillow lack some formats.
    formats = [form for form in IMAGE_FORMATS if form in Image.OPEN]

    return Image.open(file, formats=formats)


class UnreadableError(UserError):
    """A file is not an image, or is damaged."""


@contextlib.contextmanager
def one_sentence(name: str) -> Iterator[None]:
    """Turns any exception of a decoder into an `UnreadableError` naming the file."""
    try:
        with warnings.catch_warnings():
            # Pillow warns about odd metadata and at half of its own limit; ours is
            # checked in to_rgb. Other warnings stay, because filters belong to all
            # threads and one of them may leave this filter behind.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    except UnreadableError:
        raise
    except Exception as error:
        # Decoders raise SyntaxError, struct.error, RuntimeError, cv2.error, Pillow's
        # DecompressionBombError and others.
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "no known image format"
        if isinstance(error, Image.DecompressionBombError):
            reason = f"more than {MAX_PIXELS:,} pixels; shrink it first"
        raise UnreadableError(
            f"{name} cannot be read as an image: {reason.rstrip('.')}."
        ) from error


def to_rgb(image: Image.Image, at_least: int = 0, *, draft: bool = True) -> np.ndarray:
    """Decodes a PIL image of any mode.

    Args:
      image: the image; one of a file is not decoded yet.
      at_least: see `read_image`.
      draft: whether a JPEG may be decoded at a smaller size. That changes `image`
        itself.

    Returns:
      uint8 [H, W, 3]. A damaged file may raise any exception.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{width}x{height} pixels are more than {MAX_PIXELS:,}; shrink it first"
        )

    factor = _reduction(image.size, at_least)
    if factor > 1 and draft:
        # A JPEG can be decoded at a half, a quarter or an eighth of its size; other
        # formats ignore this.
        image.draft(None, (width // factor, height // factor))
        factor = _reduction(image.size, at_least)

    # Palette, transparency and EXIF data are complete only after loading.
    image.load()
    return _upright(image, _converter(image), factor)


def _upright(
    image: Image.Image, convert: Callable[[Image.Image], Image.Image], factor: int
) -> np.ndarray:
    """Converts a decoded image strip by strip, see `_in_strips`, and turns it upright.

    Returns:
      uint8 [H, W, 3].
    """
    rgb = _in_strips(image, convert, factor)
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    turn = _UPRIGHT.get(orientation)

    return rgb if turn is None else np.ascontiguousarray(turn(rgb))


# How an image [H, W, 3] stored in each orientation of EXIF is brought upright.
_UPRIGHT: dict[Any, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image, 1),
}


def _reduction(size: tuple[int, int], at_least: int) -> int:
    """Chooses the whole number by which the sides of an image are divided."""
    width, height = size
    if not at_least or width * height <= REDUCE_ABOVE:
        return 1
    return max(1, min(width, height) // (_SPARE * at_least))


def _strips(image: Image.Image, factor: int) -> Iterator[tuple[int, Image.Image]]:
    """Yields (first row divided by `factor`, strip of a multiple of `factor` rows)."""
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // (width * factor)) * factor
    if rows >= height:
        yield 0, image
        return

    for top in range(0, height, rows):
        yield top // factor, image.crop((0, top, width, min(top + rows, height)))


def _in_strips(
    image: Image.Image, convert: Callable[[Image.Image], Image.Image], factor: int
) -> np.ndarray:
    """Converts an image strip by strip, so that no second copy of a large one is made.

    Args:
      image: a decoded image of any mode.
      convert: strip -> strip in the mode RGB.
      factor: whole number by which the sides are divided, by averaging.

    Returns:
      uint8 [ceil(H / factor), ceil(W / factor), 3].
    """
    # Sides are rounded up, as Pillow's `reduce` does.
    width, height = image.size
    rgb = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)

    for row, strip in _strips(image, factor):
        converted = convert(strip)
        if factor > 1:
            converted = converted.reduce(factor)
        rgb[row : row + converted.height] = np.asarray(converted)

    return rgb


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Chooses how strips of an image become RGB."""
    if _is_deep(image):
        top = _deep_top(image)
        return lambda strip: _deep_to_rgb(strip, top)
    if image.has_transparency_data:
        return _on_white
    if image.mode == "RGB":
        return lambda strip: strip
    return lambda strip: strip.convert("RGB")


def _is_deep(image: Image.Image) -> bool:
    """Whether an image is grey with more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _without_alpha(strip: Image.Image) -> Image.Image:
    """Drops transparency and keeps the colours under it."""
    return strip.convert("RGBA").convert("RGB")


def _alpha(strip: Image.Image) -> Image.Image:
    """Shows the opacity of a strip as a grey image in the mode RGB."""
    return strip.convert("RGBA").getchannel("A").convert("RGB")


def _on_white(strip: Image.Image) -> Image.Image:
    """Makes transparent parts white."""
    strip = strip.convert("RGBA")
    white = Image.new("RGBA", strip.size, "white")
    return Image.alpha_composite(white, strip).convert("RGB")


def _deep_top(image: Image.Image) -> float:
    """Finds the value that is white in a grey image of more than 8 bits."""
    largest = -np.inf
    for _, strip in _strips(image, 1):
        values = np.asarray(strip)
        if not np.isfinite(values).all():
            raise UserError("it has values that are not finite")
        largest = max(largest, float(values.max()))

    if image.mode == "F":
        # Files do not state the range of floating-point values. It is 0..1 or 0..255,
        # according to the largest value.
        return 1.0 if largest <= 1.0 else 255.0

    # `I` has 32 bits, of which files rarely use all. The largest value shows whether
    # they are 8, 16 or 32.
    tops = (255.0, 65535.0, 2.0**32 - 1) if image.mode == "I" else (65535.0,)

    return next((top for top in tops if largest <= top), tops[-1])


def _deep_to_rgb(strip: Image.Image, top: float) -> Image.Image:
    """Scales values of 0 .. top to 8 bits."""
    values = np.asarray(strip).astype(np.float64)
    levels = np.round(np.clip(values / top, 0, 1) * 255)
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")


def array_to_rgb(array: np.ndarray) -> np.ndarray:
    """Converts one image array to three channels.

    Args:
      array: uint8 [H, W], [H, W, 1], [H, W, 2] (grey, alpha), [H, W, 3] or [H, W, 4]
        (RGBA); transparent parts become white.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UserError: If the array has another type or shape, or is empty.
    """
    if array.dtype != np.uint8:
        hint = "convert them first."
        if np.issubdtype(array.dtype, np.floating):
            hint = (
                "convert them first, e.g. (x * 255).round().astype('uint8') for values "
                "in 0..1, or x.round().astype('uint8') for values in 0..255."
            )
        elif array.dtype.kind in "OU":
            hint = "give file names as a list."
        raise UserError(
            f"Images as arrays must be uint8 0..255, got {array.dtype}: {hint}"
        )

    if array.ndim == 2:
        array = array[..., None]

    if array.ndim != 3 or array.shape[-1] not in (1, 2, 3, 4) or 0 in array.shape:
        raise UserError(
            f"An image array must be [H, W] or [H, W, 1-4], got {list(array.shape)}."
        )

    if array.shape[-1] in (2, 4):
        # Blend with white in integers; adding 127 rounds to the nearest level.
        alpha = array[..., -1:].astype(np.uint16)
        colour = array[..., :-1].astype(np.uint16)
        array = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)

    return np.broadcast_to(array, (*array.shape[:2], 3))


def square(image: np.ndarray, *, size: int, fit: str = "crop") -> np.ndarray:
    """Makes an image square and resizes it with antialiasing.

    Args:
      image: uint8 [H, W, 3].
      size: side of the result, in pixels.
      fit: 'crop' takes the middle square, 'stretch' the whole image.

    Returns:
      uint8 [size, size, 3]; the image itself where it already has this size.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return np.ascontiguousarray(image)

    if fit == "crop":
        side = min(height, width)
        top = (height - side) // 2
        left = (width - side) // 2
        image = image[top : top + side, left : left + side]

    resized = Image.fromarray(np.ascontiguousarray(image)).resize(
        (size, size), Image.Resampling.LANCZOS
    )
    return np.asarray(resized)


def _is_single(inputs: Any) -> bool:
    """Whether `inputs` is one image rather than a folder or several."""
    if isinstance(inputs, str | os.PathLike):
        return not given_path(inputs, name=_GIVEN).is_dir()
    return isinstance(inputs, Image.Image) or (
        isinstance(inputs, np.ndarray) and inputs.ndim < 4
    )


def _items(inputs: Any) -> Iterator[tuple[str, Any]]:
    """Lists (name, path, PIL image or array) of everything in `inputs`."""
    if isinstance(inputs, str | os.PathLike):
        yield from list_images(given_path(inputs, name=_GIVEN))
    elif isinstance(inputs, Image.Image) or (
        isinstance(inputs, np.ndarray) and inputs.ndim < 4
    ):
        yield "image 0", inputs
    elif isinstance(inputs, np.ndarray):
        if inputs.ndim != 4:
            raise UserError(
                f"A batch of images must be [N, H, W, C], got {list(inputs.shape)}."
            )
        if inputs.dtype != np.uint8:
            # Raises the error that explains the conversion.
            array_to_rgb(inputs)
        yield from ((f"image {index}", image) for index, image in enumerate(inputs))
    elif isinstance(inputs, Sequence) and not isinstance(inputs, bytes):
        for index, item in enumerate(inputs):
            if isinstance(item, str | os.PathLike):
                yield from list_images(given_path(item, name=_GIVEN))
            elif isinstance(item, Image.Image):
                yield f"image {index}", item
            elif hasattr(item, "__array__"):
                yield f"image {index}", np.asarray(item)
            else:
                raise UserError(
                    _WANTED.format(f"{type(item).__name__} at index {index}")
                )
    elif hasattr(inputs, "__array__"):
        yield from _items(np.asarray(inputs))
    else:
        raise UserError(_WANTED.format(type(inputs).__name__))


def list_inputs(inputs: Any) -> Iterator[tuple[str, Any]]:
    """Lists everything in `inputs` without reading it.

    Args:
      inputs: see `as_images`.

    Yields:
      Name, and the path, PIL image or array.

    Raises:
      UserError: If a folder has no image file, or `inputs` is of another kind.
    """
    yield from _items(inputs)


# What a path of images is called in messages.
_GIVEN = "the path of images"
_WANTED = "Images are paths, PIL images, uint8 arrays or a list of these, got {}."


def list_images(path: epath.Path) -> Iterator[tuple[str, epath.Path]]:
    """Lists a file, or the image files below a folder in the order of their paths.

    Args:
      path: a file or a folder.

    Yields:
      Name and path of each.

    Raises:
      UserError: If a folder has no image file.
    """
    if not path.is_dir():
        yield str(path), path
        return

    if is_remote(path):
        found = sorted(file for file in _walk_remote(path) if is_image_name(file.name))
    else:
        found = sorted(
            epath.Path(folder.path) / name
            for folder in walk([os.fspath(path)], files_once=False)
            for name in folder.files
            if is_image_name(name)
        )

    if not found and not is_remote(path) and not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"The folder {path} may not be read; change its permissions.")
    if not found:
        raise UserError(
            f"The folder {path} has no image file ({', '.join(IMAGE_SUFFIXES)})."
        )

    yield from ((str(file), file) for file in found)


def _walk_remote(folder: epath.Path) -> Iterator[epath.Path]:
    """Lists the visible files below a folder of cloud storage, which has no links."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk_remote(path)
        else:
            yield path
