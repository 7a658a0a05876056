"""Calibration pictures as if the network had not seen them: what plans are simulated on."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MIDDLE = Fraction(4, 5)
"""Of each side, what is left of a picture."""


def unseen(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: the middle of a picture, mirrored left to right, in the picture's own size.

    A network is surer of the pictures that it was trained on, which calibration pictures often are, than of others,
    and int8 changes fewer of their pixels. Mirrored and larger, they do nearly as pictures that are new to it
    (docs/measurements.md).
    """
    height, width = picture.shape[:2]
    return np.asarray(Image.fromarray(_middle(picture)).resize((width, height), Image.Resampling.BILINEAR))


def unseen_labels(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w) uint8: the labels of what `unseen` leaves of their picture. They may be of another size than it."""
    return _middle(labels)


def _middle(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = plane.shape[:2]
    above, left = (round(n * (1 - MIDDLE) / 2) for n in (height, width))
    return np.ascontiguousarray(plane[above : height - above, left : width - left][:, ::-1])
