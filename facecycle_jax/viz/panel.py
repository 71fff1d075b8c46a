"""Images and flows laid out in captioned panels.

Images are uint8 [H, W, 3] RGB or [H, W] grey. A flow is floating point [H, W, 2] and is
drawn in the colours of `flow_to_rgb`. A panel is uint8 [H, W, 3] on white.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facecycle_jax.errors import UserError
from facecycle_jax.viz.flow_colours import flow_to_rgb

Cells = Sequence[Sequence[np.ndarray | None]]
_INK = (32, 32, 32)

# Captions by the names that methods and model give their images, in order.
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


def _enlarged(cell: np.ndarray, side: int, scale: float | None) -> Image.Image:
    """Turns one cell into an enlarged image."""
    cell = np.asarray(cell)
    is_flow = cell.ndim == 3 and cell.shape[-1] == 2
    if is_flow and np.issubdtype(cell.dtype, np.floating):
        cell = flow_to_rgb(cell)

    grey_or_rgb = cell.ndim == 2 or (cell.ndim == 3 and cell.shape[-1] == 3)
    if cell.dtype != np.uint8 or not grey_or_rgb:
        raise UserError(
            "A panel takes uint8 images [H, W, 3] or [H, W] and floating-point flows "
            f"[H, W, 2], got {cell.dtype} {list(cell.shape)}."
        )

    # Without a scale every cell gets the same longer side, so that coarse flows line up
    # with faces.
    image = Image.fromarray(cell).convert("RGB")
    factor = side / max(image.size) if scale is None else scale
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))

    # Small maps keep hard pixels where those can all have the same size.
    whole = factor == int(factor) and factor >= 1 and min(image.size) < 32
    filter_ = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
    return image.resize(size, filter_)


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """Breaks a caption into lines of at most `width` pixels.

    Words are broken only where they are longer than a line.
    """
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
            f"A panel needs at least one image, got rows of {[len(r) for r in rows]}."
        )
    if row_captions is not None and len(row_captions) != len(rows):
        raise UserError(
            f"{len(rows)} rows need as many row captions, got {len(row_captions)}."
        )

    if captions is None:
        return [[""] * len(row) for row in rows]
    if all(isinstance(caption, str) for caption in captions):
        # One list of strings is written once, above the columns.
        captions = [captions] + [[""] * len(row) for row in rows[1:]]

    given = [len(row) for row in captions]
    needed = [len(row) for row in rows]
    if given != needed:
        raise UserError(f"Rows of {needed} images need as many captions, got {given}.")
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
    """Lays images out in rows, each under its caption.

    Args:
      rows: images uint8 [H, W, 3] or [H, W] and flows float [H, W, 2]; None leaves a
        place empty.
      captions: one string per column, or one list of strings per row; long ones are
        wrapped.
      row_captions: one string per row, written to its left.
      title: a line above everything.
      side: longer side of every image in the panel, in pixels, when `scale` is None.
      scale: factor from an image's own size instead; cells may then differ in size.
      padding: white space around images, in pixels.
      font_size: height of the letters, in pixels.

    Returns:
      uint8 [H, W, 3], black on white. Maps under 32 pixels enlarged by a whole factor
      keep hard pixels. Everything else is resized by Lanczos.

    Raises:
      UserError: if there is no image, a cell is neither image nor flow, or captions do
        not fit the rows.
    """
    texts = _check_captions(rows, captions, row_captions)
    if side < 1 or padding < 0 or (scale is not None and not scale > 0):
        raise UserError(
            "side and scale must be above 0 and padding 0 or more, "
            f"got {side}, {scale}, {padding}."
        )

    cells: list[list[Image.Image | None]] = []
    for row in rows:
        cells.append([None if c is None else _enlarged(c, side, scale) for c in row])

    layout = _lay_out(
        cells,
        texts,
        names=row_captions or [],
        title=title,
        side=side,
        padding=padding,
        font_size=font_size,
    )
    return _draw(cells, layout)


class _Layout(NamedTuple):
    """Where everything of a panel stands, in pixels.

    Attributes:
      size: width and height of the panel.
      xs: left edges of the columns.
      ys: top edges of the images of the rows.
      heights: of the rows.
      captions: lines of the caption of each cell, by row; [] for a row without any.
      names: lines of the caption of each row, or [].
      title: the line above everything, or None.
      padding: space at the edges.
      font: of all text.
      line: distance of lines.
    """

    size: tuple[int, int]
    xs: list[int]
    ys: list[int]
    heights: list[int]
    captions: list[list[list[str]]]
    names: list[list[str]]
    title: str | None
    padding: int
    font: Any
    line: int


def _lay_out(
    cells: list[list[Image.Image | None]],
    texts: list[list[str]],
    *,
    names: Sequence[str],
    title: str | None,
    side: int,
    padding: int,
    font_size: int,
) -> _Layout:
    """Computes the layout of enlarged cells, of their captions and of the title."""
    font = ImageFont.load_default(size=font_size)
    line = round(font_size * 1.3)

    # Every column is as wide, and every row as high, as its largest image.
    columns = max(len(row) for row in cells)
    by_column = [[row[i] for row in cells if i < len(row)] for i in range(columns)]
    widths = [max((c.width for c in column if c), default=side) for column in by_column]
    heights = [max((c.height for c in row if c), default=side) for row in cells]

    # Captions, in lines as wide as their columns.
    captions: list[list[list[str]]] = []
    for row_texts in texts:
        lines_of_row = []
        if any(row_texts):
            for i, text in enumerate(row_texts):
                lines_of_row.append(_wrap(text, font, widths[i]))
        captions.append(lines_of_row)
    headers = [max((len(t) for t in row), default=0) * line for row in captions]

    # Captions of rows, in a margin on the left.
    wrapped = [_wrap(name, font, side) for name in names]
    name_widths = [round(font.getlength(text)) for name in wrapped for text in name]
    margin = max(name_widths, default=0)
    left = padding + (margin + padding if margin else 0)
    top = padding + (line + padding if title else 0)

    # Columns from left to right, then rows from top to bottom, each below its captions.
    xs = []
    x = left
    for width in widths:
        xs.append(x)
        x += width + padding
    ys = []
    y = top
    for header, height in zip(headers, heights, strict=True):
        ys.append(y + header)
        y += header + height + padding

    title_width = round(font.getlength(title)) + 2 * padding if title else 0
    return _Layout(
        size=(max(x, title_width), y),
        xs=xs,
        ys=ys,
        heights=heights,
        captions=captions,
        names=wrapped,
        title=title,
        padding=padding,
        font=font,
        line=line,
    )


def _draw(cells: list[list[Image.Image | None]], layout: _Layout) -> np.ndarray:
    """Draws enlarged cells and all text; returns uint8 [H, W, 3]."""
    panel = Image.new("RGB", layout.size, "white")
    draw = ImageDraw.Draw(panel)

    def write(x: int, y: int, lines: list[str]) -> None:
        _write(draw, x, y, lines, layout.font, layout.line)

    if layout.title:
        write(layout.padding, layout.padding, [layout.title])

    for index, (row, y) in enumerate(zip(cells, layout.ys, strict=True)):
        if layout.names:
            # In the middle of the row.
            name = layout.names[index]
            above = (layout.heights[index] - layout.line * len(name)) // 2
            write(layout.padding, y + above, name)

        # A caption ends just above its image, however many lines the others have.
        for lines, x in zip(layout.captions[index], layout.xs, strict=False):
            write(x, y - layout.line * len(lines), lines)

        for cell, x in zip(row, layout.xs, strict=False):
            if cell is not None:
                panel.paste(cell, (x, y))

    return np.asarray(panel)


def training_panel(
    images: Mapping[str, np.ndarray],
    *,
    step: int | None = None,
    max_rows: int = 8,
    side: int = 96,
) -> np.ndarray:
    """Draws a model's results for the first faces of a batch, one row per face.

    Args:
      images: uint8 [N, H, W, 3] or floating-point flows [N, h, w, 2] by name, same N
        for all, as in `Aux.images` denormalised. Known names come in the order of the
        method. Arrays of other shapes (codes) are left out.
      step: the training step, written above.
      max_rows: largest number of faces drawn.
      side: side of each image in the panel, in pixels.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UserError: if nothing can be drawn, an image is floating point, or the numbers of
        faces differ.
    """
    drawn = {n: np.asarray(p) for n, p in images.items() if np.ndim(p) == 4}
    counts = {name: len(array) for name, array in drawn.items()}
    one_count = len(set(counts.values())) == 1 and 0 not in counts.values()
    if not one_count or max_rows < 1:
        raise UserError(
            "training_panel needs images [N, H, W, 3] with one N of at least 1 and "
            f"max_rows of at least 1, got N of {counts} and max_rows {max_rows}."
        )

    # Known names in the order of the method, then the others by name.
    order = list(_NAMES)

    def rank(name: str) -> tuple[int, str]:
        return (order.index(name) if name in _NAMES else len(order), name)

    names = sorted(drawn, key=rank)
    faces = min(max_rows, counts[names[0]])
    rows = [[drawn[name][face] for name in names] for face in range(faces)]

    captions = [_NAMES.get(n, n.replace("_", " ")) for n in names]
    title = None if step is None else f"step {step:,}"
    return grid(rows, captions=captions, title=title, side=side)


def translation_panel(
    result: Mapping[str, np.ndarray],
    *,
    names: tuple[str, str] = ("source", "driver"),
    side: int = 128,
) -> np.ndarray:
    """Draws the exchange of motion and identity between two faces, as twelve images.

    A row shows six images of one face. They are the face, its flow, its neutral face,
    that with the other's motion, its mean face, and the other's mean face with this
    identity and the other's motion.

    Args:
      result: arrays whose first axis is the two faces: `input`, `neutral`,
        `reexpressed`, `mean_face`, `reidentified_reexpressed` uint8 [2, H, W, 3] and
        `flow` float [2, h, w, 2]; others are ignored.
      names: captions of the two rows.
      side: side of each image in the panel, in pixels.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UserError: if an array is missing or is not of two faces.

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
