"""The pictures on which a file is worst, drawn side by side for the HTML report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mobileseg.mobile_assets.overlay import Palette, blend
from mobileseg.texts import share_text
from mobileseg.validation.page import Strip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobileseg.validation.parity import Compared

MOST = 4
"""Pictures that are kept."""

WIDTH = 480
"""Pixels of each drawing at most."""

_DIFFERENT = (214, 40, 40)


class Worst:
    """Keeps the pictures of least agreement, the first of equals, however many there are."""

    def __init__(self) -> None:
        self.kept: list[tuple[float, int, Compared]] = []

    def see(self, found: Compared) -> None:
        share = found.tally.agreement.result().pixels
        self._keep([*self.kept, (share, found.number, found)])

    def merge(self, other: Worst) -> None:
        """Take in those of other pictures."""
        self._keep([*self.kept, *other.kept])

    def _keep(self, candidates: list[tuple[float, int, Compared]]) -> None:
        self.kept = sorted(candidates, key=lambda item: item[:2])[:MOST]

    def strips(self, palette: Palette) -> list[Strip]:
        """Input, label where there is one, reference, artifact, and where those two differ."""
        return [_strip(share, found, palette) for share, _, found in self.kept]


def _strip(share: float, found: Compared, palette: Palette) -> Strip:
    size = found.reference.shape
    colours = _palette_for(palette)
    picture = _resized(found.picture, (size[0], size[1]))
    drawings = {"picture": picture}
    if found.label is not None:
        drawings["label"] = np.asarray(colours, np.uint8)[found.label]
    drawings["reference"] = blend(picture, found.reference.astype(np.uint8), colours, 0.6)
    drawings["file"] = blend(picture, found.artifact.astype(np.uint8), colours, 0.6)
    drawings["different"] = _marked(picture, found.reference != found.artifact)
    return Strip(
        f"picture {found.number + 1}",
        share_text(share),
        tuple((name, _data_uri(image)) for name, image in drawings.items()),
    )


def _palette_for(palette: Palette) -> Sequence[tuple[int, int, int]]:
    """256 colours: -1 (no valid class) and void pixels are black."""
    return [*palette, *[(0, 0, 0)] * (256 - len(palette))]


def _marked(picture: NDArray[np.uint8], where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The picture in pale grey, with a mark on each pixel."""
    grey = 128 + picture.mean(axis=2, dtype=np.float32).astype(np.uint8) // 2
    marked = np.repeat(grey[:, :, None], 3, axis=2)
    marked[where] = _DIFFERENT
    return marked


def _resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    from PIL import Image

    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _data_uri(image: NDArray[np.uint8]) -> str:
    from PIL import Image

    drawn = Image.fromarray(image)
    drawn.thumbnail((WIDTH, WIDTH), Image.Resampling.NEAREST)
    file = io.BytesIO()
    drawn.save(file, "WEBP", quality=80, method=6)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
