"""Drawing of segmentations: label maps with a palette, overlays on the picture, legends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from mobileseg.types import Classes

Palette = Sequence[tuple[int, int, int]]

LEGEND_FONT = 16
"""Height in pixels of a free-standing legend's letters."""

_PAPER, _INK, _FRAME = (255, 255, 255), (20, 20, 20), (150, 150, 150)


def mask_image(classes: NDArray[np.uint8], palette: Palette) -> Image:
    """An ``(H, W)`` class map as a palette picture (mode ``P``): its pixels are the classes, shown in their colours."""
    from PIL import Image

    image = Image.fromarray(classes)
    image.putpalette([channel for colour in palette for channel in colour])
    return image


def blend(
    picture: NDArray[np.uint8], classes: NDArray[np.uint8], palette: Palette, opacity: float
) -> NDArray[np.uint8]:
    """The picture with each pixel's class colour over it, opaque along the boundaries.

    ``picture``: ``(H, W, 3) uint8`` RGB; ``classes``: ``(H, W)``. ``opacity``: of the colours inside a region, 0 (the
    picture) to 1 (the colours).
    """
    colours = np.asarray(palette, np.uint16)
    weight = round(opacity * 256)
    # 255 * 256 + 128 fits 16 bits: no float copy of a large picture is needed.
    blended = (picture.astype(np.uint16) * (256 - weight) + (colours * weight + 128)[classes]) >> 8
    edge = boundaries(classes, boundary_width(classes.shape))
    blended[edge] = colours[classes[edge]]
    return blended.astype(np.uint8)


def boundary_width(shape: tuple[int, ...]) -> int:
    """Pixels on either side of a boundary that are drawn opaque: more on large pictures, so that it stays visible."""
    return max(1, round(min(shape) / 500))


def boundaries(classes: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Where an ``(H, W)`` class map has another class at most ``width`` pixels above, below, left or right."""
    edge = np.zeros(classes.shape, np.bool_)
    for step in range(1, width + 1):
        for near, far, first, second in (
            (edge[:-step], edge[step:], classes[:-step], classes[step:]),
            (edge[:, :-step], edge[:, step:], classes[:, :-step], classes[:, step:]),
        ):
            differs = first != second
            near |= differs
            far |= differs
    return edge


def legend(
    classes: Classes, shares: Sequence[float] | None = None, *, width: int | None = None, font_size: int = LEGEND_FONT
) -> Image:
    """Each class's index, colour and name, and its share of the pixels where ``shares`` (0 to 1) are given.

    One column as wide as it needs, or as many columns as fit ``width`` pixels.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(font_size)
    names = [f"{index}  {name}" for index, name in enumerate(classes.names)]
    values = [share_text(share) for share in shares] if shares is not None else [""] * len(names)
    gap, swatch, row = font_size // 2, 2 * font_size, round(1.6 * font_size)
    name_width = round(max(map(font.getlength, names)))
    value_width = round(max(map(font.getlength, values)))
    cell = gap + swatch + gap + name_width + (2 * gap + value_width if value_width else 0) + gap
    columns = max(1, width // cell) if width is not None else 1
    rows = -(-len(names) // columns)
    image = Image.new("RGB", (width or cell, rows * row + 2 * gap), _PAPER)
    draw = ImageDraw.Draw(image)
    for index, (name, value, colour) in enumerate(zip(names, values, classes.palette, strict=True)):
        left, top = (index // rows) * cell + gap, (index % rows) * row + gap
        middle = top + row // 2
        draw.rectangle((left, top + 2, left + swatch, top + row - 3), fill=colour, outline=_FRAME)
        draw.text((left + swatch + gap, middle), name, fill=_INK, font=font, anchor="lm")
        draw.text((left + cell - 2 * gap, middle), value, fill=_INK, font=font, anchor="rm")
    return image


def with_legend(picture: NDArray[np.uint8], classes: Classes) -> NDArray[np.uint8]:
    """The ``(H, W, 3)`` picture with the classes in a strip below it, ``(H + h, W, 3)``; h depends on W alone."""
    width = picture.shape[1]
    strip = legend(classes, width=width, font_size=min(28, max(11, width // 50)))
    return np.concatenate([picture, np.asarray(strip)])


def share_text(share: float) -> str:
    """A share of the pixels in percent; what is there at all is not shown as 0."""
    if share == 0:
        return "-"
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
