"""Pictures and label maps from disk: finding, decoding, resizing, choosing."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mobileseg.errors import OptionError, PictureError
from mobileseg.types import Size

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What `find_pictures` takes for a picture, in any case of letters."""

T = TypeVar("T")


def find_pictures(folder: Path) -> list[Path]:
    """All pictures below ``folder``, sorted by their path relative to it; hidden files are left out.

    Raises `PictureError` where the folder is missing, is a file, or holds no picture.
    """
    if not folder.is_dir():
        found = "is a file" if folder.is_file() else "does not exist"
        raise PictureError(f"'{folder}' {found}; expected a folder of pictures ({_known_suffixes()}).")
    found_paths = [p for p in folder.rglob("*") if _is_picture(p)]
    if not found_paths:
        raise PictureError(f"'{folder}' holds no picture; expected at least one of {_known_suffixes()}, at any depth.")
    return sorted(found_paths, key=lambda p: p.relative_to(folder).parts)


def pair_labels(pictures: Sequence[Path], folder: Path, label_folder: Path) -> list[Path]:
    """The label map of each picture: the file at the same place below ``label_folder``, whatever its suffix.

    Raises `PictureError` naming the first pictures that have no label map.
    """
    labels = {p.relative_to(label_folder).with_suffix(""): p for p in find_pictures(label_folder)}
    keys = [p.relative_to(folder).with_suffix("") for p in pictures]
    missing = [str(p) for p, key in zip(pictures, keys, strict=True) if key not in labels]
    if missing:
        raise PictureError(
            f"{len(missing)} of {len(pictures)} pictures have no label map in '{label_folder}', for example "
            f"{', '.join(missing[:3])}; expected a label map of the same name for each picture."
        )
    return [labels[key] for key in keys]


def choose(paths: Iterable[Path], count: int, seed: int) -> list[Path]:
    """``count`` of the paths without repetition, sorted; all of them where there are no more than that.

    The choice depends on the set of paths, ``count`` and ``seed`` alone, not on the order given.
    Raises `OptionError` for a count below one.
    """
    if count < 1:
        raise OptionError(f"{count} pictures were asked for; expected at least 1.")
    ordered = sorted(paths)
    return sorted(random.Random(seed).sample(ordered, min(count, len(ordered))))


def load_picture(path: Path, size: Size | None = None) -> NDArray[np.uint8]:
    """The picture as ``(H, W, 3) uint8`` RGB, upright (EXIF orientation applied), resized to ``size`` where given.

    The resize is bilinear and widens its filter when it shrinks (antialiasing), as Pillow does it. Any mode becomes
    RGB: palettes are looked up, grey is repeated, transparency is dropped, 16 bits become 8.
    Raises `PictureError` by file name for what cannot be read.
    """
    return _read(path, lambda image: _to_array(_upright_rgb(image, path), size))


def load_labels(path: Path) -> NDArray[np.uint8]:
    """A label map as ``(H, W) uint8`` class indices, unscaled; a palette's indices are the classes.

    Raises `PictureError` for what cannot be read, has more than one channel, or holds an index above 255.
    """
    return _read(path, lambda image: _class_indices(image, path))


def iter_pictures(paths: Iterable[Path], size: Size | None = None) -> Iterator[NDArray[np.uint8]]:
    """`load_picture` of each path, one at a time."""
    return (load_picture(path, size) for path in paths)


def iter_labels(paths: Iterable[Path]) -> Iterator[NDArray[np.uint8]]:
    """`load_labels` of each path, one at a time."""
    return (load_labels(path) for path in paths)


def _known_suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _read(path: Path, decode: Callable[[Image], T]) -> T:
    """Opens, decodes and closes; Pillow's errors become ours."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return decode(image)
    # Pillow's decoders raise all of these on broken files; SyntaxError is how its PNG reader reports a bad chunk.
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise PictureError(f"'{path}' cannot be read as a picture: {error}. Replace or remove it.") from error


def _upright_rgb(image: Image, path: Path) -> Image:
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise PictureError(f"'{path}' holds floating-point pixels, whose white is unknown; save it with 8 or 16 bits.")
    # Pillow reads 16-bit grey as "I;16" or "I" and clips it to 255 on conversion.
    return _grey_of_16_bits(image) if image.mode.startswith("I") else image.convert("RGB")


def _grey_of_16_bits(image: Image) -> Image:
    from PIL import Image

    values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    return Image.fromarray((values // 256).astype(np.uint8)).convert("RGB")


def _to_array(image: Image, size: Size | None) -> NDArray[np.uint8]:
    from PIL import Image

    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(image, dtype=np.uint8)


def _class_indices(image: Image, path: Path) -> NDArray[np.uint8]:
    values = np.array(image)
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise PictureError(
            f"'{path}' is a {image.mode} picture, not a label map; "
            "expected one channel whose values are class indices (0..255)."
        )
    if values.min() < 0 or values.max() > 255:
        raise PictureError(f"'{path}' holds class index {values.max()}; expected 0..255.")
    return values.astype(np.uint8)
