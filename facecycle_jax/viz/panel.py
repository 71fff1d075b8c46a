"""Pictures and flows laid out in captioned panels.

Pictures are uint8 [H, W, 3] RGB or [H, W] grey; a flow is floating point [H, W, 2] and
is drawn in the colours of `flow_to_rgb`. A panel is uint8 [H, W, 3] on white.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facecycle_jax.errors import UserError
from facecycle_jax.viz.flow_colours import flow_to_rgb

Cells = Sequence[Sequence[np.ndarray | None]]
_INK = (32, 32, 32)

# Order and captions of what the methods and the model call their pictures.
_NAMES = {
    "input": "input",
    "flow": "flow",
    "backward_flow": "backward flow",
    "neutral": "neutral",
    "mean_face": "mean face",
    "batch_mean": "batch mean",
    "restored": "identity restored",
    "reexpressed": "other's motion",
    "reidentified": "identity on other's mean face",
    "reidentified_reexpressed": "identity and other's motion on other's mean face",
    "reconstruction": "reconstruction",
    "autoencoded": "autoencoded",
    "warped": "input warped",
    "warped_back": "... and back",
    "neutral_warped_back": "neutral warped back",
    "restored_warped_back": "restored warped back",
}


def _picture(cell: np.ndarray, side: int, scale: float | None) -> Image.Image:
    """Turns one cell into an enlarged picture."""
    cell = np.asarray(cell)
    if (
        cell.ndim == 3
        and cell.shape[-1] == 2
        and np.issubdtype(cell.dtype, np.floating)
    ):
        cell = flow_to_rgb(cell)
    if cell.dtype != np.uint8 or not (
        cell.ndim == 2 or (cell.ndim == 3 and cell.shape[-1] == 3)
    ):
        raise UserError(
            "A panel takes uint8 pictures [H, W, 3] or [H, W] and floating-point flows [H, W, 2], "
            f"got {cell.dtype} {list(cell.shape)}."
        )
    image = Image.fromarray(cell).convert("RGB")
    # Without a scale every cell gets the same longer side, so that coarse flows line up
    # with faces.
    factor = side / max(image.size) if scale is None else scale
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    whole = factor == int(factor) and factor >= 1 and min(image.size) < 32
    return image.resize(
        size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
    )


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """Breaks a caption into lines of at most `width` pixels, inside longer words only."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _write(
    draw: ImageDraw.ImageDraw, x: int, y: int, lines: list[str], font: Any, line: int
) -> None:
    """Writes lines below each other, `line` pixels apart."""
    for index, text in enumerate(lines):
        draw.text((x, y + index * line), text, fill=_INK, font=font)


def _check_captions(rows: Cells, captions: Any, row_captions: Any) -> list[list[str]]:
    """Brings captions into one string per cell."""
    if not rows or not any(len(row) for row in rows):
        raise UserError(
            f"A panel needs at least one picture, got rows of {[len(r) for r in rows]}."
        )
    if row_captions is not None and len(row_captions) != len(rows):
        raise UserError(
            f"{len(rows)} rows need as many row captions, got {len(row_captions)}."
        )
    if captions is None:
        return [[""] * len(row) for row in rows]
    if all(isinstance(caption, str) for caption in captions):
        # One list of strings stands above the columns, once.
        captions = [captions] + [[""] * len(row) for row in rows[1:]]
    shape, wanted = [len(c) for c in captions], [len(row) for row in rows]
    if shape != wanted:
        raise UserError(
            f"Rows of {wanted} pictures need as many captions, got {shape}."
        )
    return [list(row) for row in captions]


def grid(
    rows: Cells,
    *,
    captions: Sequence[str] | Sequence[Sequence[str]] | None = None,
    row_captions: Sequence[str] | None = None,
    title: str | None = None,
    side: int = 128,
    scale: float | None = None,
    padding: int = 6,
    font_size: int = 13,
) -> np.ndarray:
    """Lays pictures out in rows, each under its caption.

    Args:
      rows: pictures uint8 [H, W, 3] or [H, W] and flows float [H, W, 2]; None leaves a
        place empty.
      captions: one string per column, or one list of strings per row; long ones are
        wrapped.
      row_captions: one string per row, written to its left.
      title: a line above everything.
      side: longer side of every picture in the panel, in pixels, when `scale` is None.
      scale: factor from a picture's own size instead; cells may then differ in size.
      padding: white space around pictures, in pixels.
      font_size: height of the letters, in pixels.

    Returns:
      uint8 [H, W, 3], black on white. Maps under 32 pixels enlarged by a whole factor
      keep hard pixels; everything else is resized by Lanczos.

    Raises:
      ValueError: if there is no picture, a cell is not one, or captions do not fit the
        rows.
    """
    texts = _check_captions(rows, captions, row_captions)
    if side < 1 or padding < 0 or (scale is not None and not scale > 0):
        raise UserError(
            f"side and scale must be above 0 and padding 0 or more, got {side}, {scale}, {padding}."
        )
    font = ImageFont.load_default(size=font_size)
    line = round(font_size * 1.3)
    cells = [
        [None if c is None else _picture(c, side, scale) for c in row] for row in rows
    ]
    columns = max(len(row) for row in cells)
    places = [[row[i] for row in cells if i < len(row)] for i in range(columns)]
    widths = [max((c.width for c in column if c), default=side) for column in places]
    heights = [max((c.height for c in row if c), default=side) for row in cells]
    wrapped = [
        [_wrap(t, font, widths[i]) for i, t in enumerate(row)] if any(row) else []
        for row in texts
    ]
    headers = [max((len(t) for t in row), default=0) * line for row in wrapped]
    names = [_wrap(name, font, side) for name in row_captions or []]
    margin = max((round(font.getlength(t)) for name in names for t in name), default=0)
    left = padding + (margin + padding if margin else 0)
    top = padding + (line + padding if title else 0)

    width = left + sum(w + padding for w in widths)
    if title:
        width = max(width, round(font.getlength(title)) + 2 * padding)
    height = top + sum(
        sum(pair) + padding for pair in zip(headers, heights, strict=True)
    )
    panel = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(panel)
    _write(draw, padding, padding, [title] if title else [], font, line)
    y = top
    for index, row in enumerate(cells):
        y += headers[index]
        if names:
            middle = y + (heights[index] - line * len(names[index])) // 2
            _write(draw, padding, middle, names[index], font, line)
        x = left
        for i, cell in enumerate(row):
            if wrapped[index]:
                # Captions sit on their picture, whatever the number of lines of the
                # others.
                lines = wrapped[index][i]
                _write(draw, x, y - line * len(lines), lines, font, line)
            if cell is not None:
                panel.paste(cell, (x, y))
            x += widths[i] + padding
        y += heights[index] + padding
    return np.asarray(panel)


def training_panel(
    pictures: Mapping[str, np.ndarray],
    *,
    step: int | None = None,
    max_rows: int = 8,
    side: int = 96,
) -> np.ndarray:
    """Draws what a model makes of the first faces of a batch, one row per face.

    Args:
      pictures: uint8 [N, H, W, 3] or floating-point flows [N, h, w, 2] by name, same N
        for all, as in `Aux.pictures` denormalised. Known names come in the order of the
        method; arrays of other shapes (codes) are left out.
      step: the training step, written above.
      max_rows: most faces drawn.
      side: side of each picture in the panel, in pixels.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ValueError: if nothing can be drawn, a picture is floating point, or the numbers
        of faces differ.
    """
    drawn = {n: np.asarray(p) for n, p in pictures.items() if np.ndim(p) == 4}
    counts = {name: len(array) for name, array in drawn.items()}
    if (
        not drawn
        or len(set(counts.values())) != 1
        or max_rows < 1
        or 0 in counts.values()
    ):
        raise UserError(
            "training_panel needs pictures [N, H, W, 3] with one N of at least 1 and max_rows of "
            f"at least 1, got N of {counts} and max_rows {max_rows}."
        )
    order = list(_NAMES)
    names = sorted(
        drawn, key=lambda n: (order.index(n) if n in _NAMES else len(order), n)
    )
    rows = [
        [drawn[n][i] for n in names] for i in range(min(max_rows, counts[names[0]]))
    ]
    captions = [_NAMES.get(n, n.replace("_", " ")) for n in names]
    title = None if step is None else f"step {step:,}"
    return grid(rows, captions=captions, title=title, side=side)


def translation_panel(
    result: Mapping[str, np.ndarray],
    *,
    names: tuple[str, str] = ("source", "driver"),
    side: int = 128,
) -> np.ndarray:
    """Draws the exchange of motion and identity between two faces, as twelve pictures.

    A row shows the face, its flow, its neutral face, that with the other's motion, its
    mean face, and the other's mean face with this identity and the other's motion.

    Args:
      result: arrays whose first axis is the two faces: `input`, `neutral`,
        `reexpressed`, `mean_face`, `reidentified_reexpressed` uint8 [2, H, W, 3] and
        `flow` float [2, h, w, 2]; others are ignored.
      names: captions of the two rows.
      side: side of each picture in the panel, in pixels.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ValueError: if an array is missing or is not of two faces.

    References:
      FaceCycle (ICCV 2021), image-to-image translation.
    """
    keys = (
        "input",
        "flow",
        "neutral",
        "reexpressed",
        "mean_face",
        "reidentified_reexpressed",
    )
    found = {key: len(result[key]) for key in keys if key in result}
    if any(found.get(key) != 2 for key in keys):
        raise UserError(
            f"translation_panel needs {', '.join(keys)} of two faces, got {found}."
        )
    captions = [_NAMES[key] for key in keys]
    rows = [[np.asarray(result[key][face]) for key in keys] for face in range(2)]
    return grid(rows, captions=captions, row_captions=names, side=side)
