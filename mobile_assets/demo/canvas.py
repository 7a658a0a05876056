"""What a scene is painted on: a pinhole camera over a flat street, a picture and its labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobileseg.mobile_assets.demo.textures import Array, Points

SKY, BUILDING, ROAD, PAVEMENT, VEGETATION, CAR, PERSON = range(7)

Colour = NDArray[np.float32]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks down the street. Lengths in metres, picture coordinates in pixels.

    ``tilt``: by how much the horizon sinks a pixel to the right; ``height``: of the lens above the ground.
    """

    focal: float
    centre: float
    horizon: float
    tilt: float
    height: float

    def horizon_at(self, x: Points) -> Points:
        """Row of the horizon in column ``x``."""
        return self.horizon + self.tilt * (x - self.centre)


@dataclass(frozen=True)
class Canvas:
    """A picture in the making.

    ``picture``: ``(H, W, 3) float32``, nominally 0..1; ``labels``: ``(H, W) uint8``.
    ``haze``: the colour of what is far; ``haze_depth``: metres at which it is half of what is seen.
    """

    picture: NDArray[np.float32]
    labels: NDArray[np.uint8]
    camera: Camera
    haze: Colour
    haze_depth: float

    def hazy(self, colour: Colour, depth: float) -> Colour:
        """``colour`` as seen through ``depth`` metres of air."""
        share = depth / (depth + self.haze_depth)
        seen: Colour = (colour * (1 - share) + self.haze * share).astype(np.float32)
        return seen


@dataclass(frozen=True)
class Patch:
    """The part of a canvas around an upright thing that stands at one depth.

    ``across``: ``(1, w)`` metres right of its middle; ``up``: ``(h, 1)`` metres above the ground at its foot.
    """

    canvas: Canvas
    rows: slice
    columns: slice
    across: Points
    up: Points
    depth: float

    def paint(self, mask: NDArray[np.bool_], colour: Colour, label: int, shade: Array | float = 1.0) -> None:
        """Fill ``mask`` with ``colour`` times ``shade``, and with ``label``."""
        seen = self.canvas.hazy(colour, self.depth)
        area = (self.rows, self.columns)
        fill = seen * (shade[..., None] if isinstance(shade, np.ndarray) else np.float32(shade))
        np.copyto(self.canvas.picture[area], fill, where=mask[..., None])
        np.copyto(self.canvas.labels[area], np.uint8(label), where=mask)

    def darken(self, mask: NDArray[np.bool_], factor: float) -> None:
        """A shadow: the picture times ``factor`` inside ``mask``; labels stay."""
        view = self.canvas.picture[self.rows, self.columns]
        np.multiply(view, np.float32(factor), out=view, where=mask[..., None])


def patch(canvas: Canvas, x: float, depth: float, extent: tuple[float, float, float]) -> Patch | None:
    """The patch around a thing at ``x`` metres right of the camera; None if it is out of the picture.

    ``extent``: half its width, its height, and how far below its foot to reach, in metres.
    """
    camera = canvas.camera
    half, tall, below = extent
    scale = camera.focal / depth
    middle = camera.centre + x * scale
    foot = camera.horizon + camera.tilt * (middle - camera.centre) + camera.height * scale
    height, width = canvas.labels.shape
    left, right = max(0, int(middle - half * scale)), min(width, int(middle + half * scale) + 2)
    top, bottom = max(0, int(foot - tall * scale)), min(height, int(foot + below * scale) + 2)
    if left >= right or top >= bottom:
        return None
    across = ((np.arange(left, right) + 0.5 - middle) / scale)[None, :]
    up = ((foot - np.arange(top, bottom) - 0.5) / scale)[:, None]
    return Patch(canvas, slice(top, bottom), slice(left, right), across, up, depth)
