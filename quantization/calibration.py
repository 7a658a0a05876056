"""Which pictures calibrate, and whether they can."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobileseg.errors import PictureError
from mobileseg.pictures import choose, find_pictures, load_picture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

MINIMUM = 1
NAMED = 5
"""How many unreadable files an error names."""


@dataclass(frozen=True)
class About:
    """What is known of calibration pictures beside their pixels. ``count``: 0 where it is not known; ``names``: by
    their places, empty where they have none. ``labels``: gives the (H, W) uint8 class map of each anew, one at a time;
    ``void``: the class that is none."""

    count: int = 0
    names: tuple[str, ...] = ()
    labels: Callable[[], Iterator[NDArray[np.uint8]]] | None = None
    void: int | None = None

    def name(self, number: int) -> str:
        """What a person calls a picture, counted from 0."""
        return self.names[number] if number < len(self.names) else f"number {number + 1}"


def choose_pictures(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """``count`` of the pictures below ``folder``, or all where there are no more; always the same for one seed.

    Raises `PictureError` for a folder that is missing or empty, `OptionError` for a count below one.
    """
    return choose(find_pictures(folder), count, seed)


def check_calibration(paths: Sequence[Path], minimum: int = MINIMUM) -> None:
    """Decode each picture once, so that a broken one shows before minutes of calibration.

    Raises `PictureError` naming those that cannot be read, or where there are fewer than ``minimum``.
    """
    if len(paths) < minimum:
        raise PictureError(
            f"There are {len(paths)} calibration pictures; expected at least {minimum}. "
            "Put more into the folder named by --calibration."
        )
    broken = [path for path in paths if not _is_readable(path)]
    if broken:
        named = ", ".join(f"'{p}'" for p in broken[:NAMED]) + (", ..." if len(broken) > NAMED else "")
        raise PictureError(
            f"{len(broken)} of {len(paths)} calibration pictures cannot be read: {named}. Replace or remove them."
        )


def _is_readable(path: Path) -> bool:
    try:
        load_picture(path)
    except PictureError:
        return False
    return True
