"""Pictures of any kind as one batch: uint8 [N, size, size, 3], RGB, 0..255.

Files are read with Pillow: what it can open and decode within the limits below counts as a picture.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, ImageOps

from facecycle_jax.errors import UserError

# A decompressed picture above this is refused unread; 100 megapixels are above any camera's.
MAX_PIXELS = 100_000_000
SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
FITS = ("crop", "stretch")


def as_pictures(inputs: Any, *, size: int, fit: str = "crop") -> tuple[np.ndarray, list[str], list[str]]:
    """Brings pictures of any source, size and mode into one batch.

    Args:
      inputs: a path of a picture, or of a folder (searched recursively for picture files, in the
        order of their paths); a PIL picture; a uint8 array [H, W], [H, W, 1], [H, W, 3], [H, W, 4]
        or [N, H, W, 3]; or a sequence of these. Transparent parts become white, 16-bit pictures are
        scaled to 8, EXIF rotation is applied, and of an animation the first frame counts.
      size: side of the result, in pixels.
      fit: how a picture that is not square becomes so: 'crop' takes the middle, 'stretch' all of
        it.

    Returns:
      The pictures, uint8 [N, size, size, 3]; their names (the path, or `picture 3` by place); and
      one line for each that could not be read and was left out.

    Raises:
      ValueError: if the one picture given cannot be read, a folder has no picture file, or `inputs`
        is of another kind, or floating point; an array of a wrong type or shape is never left out
        silently.
      FileNotFoundError: if the one path given does not exist.
    """
    if size < 1 or fit not in FITS:
        raise UserError(f"size must be at least 1 and fit one of {FITS}, got {size} and {fit!r}.")
    pictures, names, problems = [], [], []
    alone = _is_single(inputs)
    for name, item in _items(inputs):
        try:
            picture = item if isinstance(item, np.ndarray) else read_picture(item)
            picture = square(array_to_rgb(picture), size=size, fit=fit)
        except (ValueError, FileNotFoundError) as error:
            if alone or isinstance(item, np.ndarray):  # a wrong array is the caller's mistake
                raise
            problems.append(f"{name}: {error}" if name not in str(error) else str(error))
            continue
        pictures.append(picture)
        names.append(name)
    if not pictures:
        return np.zeros((0, size, size, 3), np.uint8), names, problems
    return np.stack(pictures), names, problems


def read_picture(source: epath.PathLike | Image.Image) -> np.ndarray:
    """Reads one picture file, or converts a PIL picture, to RGB at its own size.

    Args:
      source: a path, local or in the cloud, or a PIL picture.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ValueError: if it is not a picture, is damaged or is larger than `MAX_PIXELS`; one line that
        names the file.
      FileNotFoundError: if there is no such file.
    """
    if isinstance(source, Image.Image):
        with _one_sentence("the picture"):
            return _to_rgb(source)
    path = epath.Path(source)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a picture.")
    with _one_sentence(str(path)), path.open("rb") as file, Image.open(file) as image:
        return _to_rgb(image)


@contextlib.contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises on damaged data into one ValueError with the file's name."""
    try:
        with warnings.catch_warnings():
            # Pillow warns about odd metadata and at half of its own limit; ours is checked in _to_rgb.
            # Only Pillow's: filters belong to all threads, and one of them may leave this one behind.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    except (FileNotFoundError, MemoryError):
        raise
    except PermissionError as error:
        raise UserError(f"{name} may not be read: permission denied.") from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, IndexError and others
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "no known picture format"
        raise UserError(f"{name} cannot be read as a picture: {reason.rstrip('.')}.") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Decodes a PIL picture of any mode, uint8 [H, W, 3]."""
    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}; shrink it first")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return array_to_rgb(_deep_to_uint8(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _deep_to_uint8(image: Image.Image) -> np.ndarray:
    """Scales a grey picture of more than 8 bits to uint8 [H, W]."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError("it has values that are not finite")
    if image.mode == "F":
        # Files do not say the range of floating-point values: 0..1 or 0..255, by the largest.
        top = 1.0 if values.max() <= 1.0 else 255.0
    else:
        # `I` has 32 bits, of which files rarely use all: the largest value tells 8, 16 or 32.
        tops = (255.0, 65535.0, 2.0**32 - 1) if image.mode == "I" else (65535.0,)
        top = next((top for top in tops if values.max() <= top), tops[-1])
    return np.round(np.clip(values / top, 0, 1) * 255).astype(np.uint8)


def array_to_rgb(array: np.ndarray) -> np.ndarray:
    """Brings one picture array to three channels.

    Args:
      array: uint8 [H, W], [H, W, 1], [H, W, 2] (grey, alpha), [H, W, 3] or [H, W, 4] (RGBA);
        transparent parts become white.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ValueError: if it is of another type or shape, or empty.
    """
    if array.dtype != np.uint8:
        raise UserError(
            f"Pictures as arrays must be uint8 0..255, got {array.dtype}: convert them first, e.g. "
            "(x * 255).round().astype('uint8') for values in 0..1."
        )
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 2, 3, 4) or 0 in array.shape:
        raise UserError(f"A picture array must be [H, W] or [H, W, 1-4], got {list(array.shape)}.")
    if array.shape[-1] in (2, 4):
        alpha = array[..., -1:].astype(np.uint16)
        colour = array[..., :-1].astype(np.uint16)
        array = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.broadcast_to(array, (*array.shape[:2], 3))


def square(picture: np.ndarray, *, size: int, fit: str = "crop") -> np.ndarray:
    """Makes a picture square and resizes it with antialiasing.

    Args:
      picture: uint8 [H, W, 3].
      size: side of the result, in pixels.
      fit: 'crop' takes the middle square, 'stretch' the whole picture.

    Returns:
      uint8 [size, size, 3]; the picture itself where it already has this size.
    """
    height, width = picture.shape[:2]
    if (height, width) == (size, size):
        return np.ascontiguousarray(picture)
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        picture = picture[top : top + side, left : left + side]
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))


def _is_single(inputs: Any) -> bool:
    """Whether `inputs` is one picture rather than a folder or several."""
    if isinstance(inputs, str | os.PathLike):
        return not epath.Path(inputs).is_dir()
    return isinstance(inputs, Image.Image) or (isinstance(inputs, np.ndarray) and inputs.ndim < 4)


def _items(inputs: Any) -> Iterator[tuple[str, Any]]:
    """Lists (name, path, PIL picture or array) of everything in `inputs`."""
    if isinstance(inputs, str | os.PathLike):
        yield from list_pictures(epath.Path(inputs))
    elif isinstance(inputs, Image.Image) or (isinstance(inputs, np.ndarray) and inputs.ndim < 4):
        yield "picture 0", inputs
    elif isinstance(inputs, np.ndarray):
        if inputs.ndim != 4:
            raise UserError(f"A batch of pictures must be [N, H, W, C], got {list(inputs.shape)}.")
        if inputs.dtype != np.uint8:
            array_to_rgb(inputs)  # says what to do
        yield from ((f"picture {index}", picture) for index, picture in enumerate(inputs))
    elif isinstance(inputs, Sequence) and not isinstance(inputs, bytes):
        for index, item in enumerate(inputs):
            if isinstance(item, str | os.PathLike):
                yield from list_pictures(epath.Path(item))
            elif isinstance(item, Image.Image):
                yield f"picture {index}", item
            elif hasattr(item, "__array__"):
                yield f"picture {index}", np.asarray(item)
            else:
                raise UserError(_WANTED.format(f"{type(item).__name__} at place {index}"))
    elif hasattr(inputs, "__array__"):
        yield from _items(np.asarray(inputs))
    else:
        raise UserError(_WANTED.format(type(inputs).__name__))


def list_inputs(inputs: Any) -> Iterator[tuple[str, Any]]:
    """Lists everything in `inputs`, see `as_pictures`, unread.

    Args:
      inputs: as `as_pictures` takes them.

    Yields:
      Name, and the path, PIL image or array.

    Raises:
      UserError: if a folder has no image file, or `inputs` is of another kind.
    """
    yield from _items(inputs)


_WANTED = "Pictures are paths, PIL pictures, uint8 arrays or a list of these, got {}."


def list_pictures(path: epath.Path) -> Iterator[tuple[str, epath.Path]]:
    """Lists a file, or the picture files below a folder in the order of their paths.

    Args:
      path: a file or a folder.

    Yields:
      Name and path of each.

    Raises:
      ValueError: if a folder has no picture file.
    """
    if not path.is_dir():
        yield str(path), path
        return
    found = sorted(f for f in _walk(path, frozenset()) if f.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(f"The folder {path} has no picture file ({', '.join(SUFFIXES)}).")
    yield from ((str(file), file) for file in found)


def _walk(folder: epath.Path, above: frozenset[str]) -> Iterator[epath.Path]:
    """Lists the files below a folder; hidden ones and links back to a folder above are left out."""
    here = os.path.realpath(os.fspath(folder))
    if here in above:
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, above | {here})
        else:
            yield path
