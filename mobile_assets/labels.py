"""Names and colours of the classes: of the usual data sets, of the demo, of a user's own file, or numbered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mobileseg.errors import OptionError, suggest
from mobileseg.types import Classes

Colour = tuple[int, int, int]
Entries = tuple[tuple[str, Colour], ...]

CAMVID: Entries = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (0, 0, 192)),
    ("tree", (128, 128, 0)),
    ("sign symbol", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
    ("unlabelled", (0, 0, 0)),
)
"""The eleven classes of SegNet (arXiv:1511.00561) and what is none of them, in CamVid's colours."""

CITYSCAPES: Entries = (
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)),
    ("pole", (153, 153, 153)),
    ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("rider", (255, 0, 0)),
    ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)),
    ("bus", (0, 60, 100)),
    ("train", (0, 80, 100)),
    ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)
"""By training id, in the colours of cityscapesScripts (``helpers/labels.py``)."""

VOID = (("void", (0, 0, 0)),)

VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

DEMO: Entries = (
    ("sky", (70, 130, 180)),
    ("building", (110, 100, 95)),
    ("road", (128, 64, 128)),
    ("pavement", (244, 35, 232)),
    ("vegetation", (107, 142, 35)),
    ("car", (0, 0, 142)),
    ("person", (220, 20, 60)),
)


def bit_colour(index: int) -> Colour:
    """PASCAL VOC's colour of a class: the index's bits, three at a time, from the high bits of R, G and B downwards."""
    channels = (
        sum(((index >> (3 * level + channel)) & 1) << (7 - level) for level in range(8)) for channel in range(3)
    )
    red, green, blue = channels
    return red, green, blue


def generic(num_classes: int) -> Classes:
    """``class 0`` to ``class N-1`` in PASCAL VOC's colours, which differ for any number of classes."""
    indices = range(num_classes)
    return Classes("generic", tuple(f"class {i}" for i in indices), tuple(bit_colour(i) for i in indices))


def _classes(dataset: str, entries: Entries, void: int | None = None) -> Classes:
    names, palette = zip(*entries, strict=True)
    return Classes(dataset, names, palette, void)


DATASETS: Mapping[str, Classes] = MappingProxyType(
    {
        "camvid": _classes("camvid", CAMVID, void=11),
        "cityscapes": _classes("cityscapes", CITYSCAPES + VOID, void=19),
        "cityscapes-void-first": _classes("cityscapes-void-first", VOID + CITYSCAPES, void=0),
        "voc": replace(generic(len(VOC_NAMES)), dataset="voc", names=VOC_NAMES),
        "demo": _classes("demo", DEMO),
    }
)
"""``cityscapes-void-first`` is the order of networks trained with 0 for void and training id + 1 for the rest."""

BY_COUNT: Mapping[int, str] = MappingProxyType(
    {11: "camvid", 12: "camvid", 19: "cityscapes", 20: "cityscapes", 21: "voc"}
)


def classes_for(num_classes: int) -> Classes:
    """The classes that a network with so many outputs most likely has; numbered ones where no data set fits."""
    dataset = BY_COUNT.get(num_classes)
    return generic(num_classes) if dataset is None else _fit(DATASETS[dataset], num_classes)


def coloured(classes: Classes) -> Classes:
    """Classes without a palette get the generic one; others are left as they are."""
    return classes if classes.palette else replace(classes, palette=generic(len(classes.names)).palette)


def load_classes(name_or_file: str, num_classes: int) -> Classes:
    """The classes of ``--classes``, for a network of ``num_classes`` outputs.

    ``name_or_file``: a name in `DATASETS`, ``generic``, or a file: ``.json`` with ``{"names": [...]}`` and, if wished,
    ``"palette": [[r, g, b], ...]`` (0..255) and ``"void": index``; any other file has a name on each line.
    A data set whose last class is void also serves a network without it.
    Raises `OptionError` for an unknown name, an unreadable or malformed file, or another number of classes.
    """
    if name_or_file == "generic":
        return generic(num_classes)
    if name_or_file in DATASETS:
        return _fit(DATASETS[name_or_file], num_classes)
    path = Path(name_or_file)
    if not path.is_file():
        names = ["generic", *sorted(DATASETS)]
        raise OptionError(
            f"There is no class set or file '{name_or_file}'.{suggest(name_or_file, names)} "
            f"Known: {', '.join(names)}; or give a .json or .txt file with the names: --classes FILE."
        )
    text = _read(path)
    return _fit(_from_json(text, path) if path.suffix.lower() == ".json" else _from_lines(text, path), num_classes)


def _fit(classes: Classes, num_classes: int) -> Classes:
    count = len(classes.names)
    if count == num_classes:
        return classes
    if classes.void == num_classes == count - 1:
        return replace(classes, names=classes.names[:-1], palette=classes.palette[:-1], void=None)
    fitting = [name for name, known in DATASETS.items() if len(known.names) == num_classes]
    remedy = f"--classes {fitting[0]}, or " if fitting else "--classes generic, or "
    raise OptionError(
        f"The classes '{classes.dataset}' are {count}, the network has {num_classes}. "
        f"Use {remedy}a file with {num_classes} names: --classes FILE."
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"The file of classes '{path}' cannot be read as UTF-8 text: {error}. {EXPECTED}") from error


EXPECTED = (
    'Expected by --classes FILE: a .json file with {"names": ["sky", ...], "palette": [[70, 130, 180], ...]} '
    "or a text file with a name on each line."
)


def _from_lines(text: str, path: Path) -> Classes:
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    return replace(_numbered(names, path), dataset=path.stem)


def _from_json(text: str, path: Path) -> Classes:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise OptionError(f"The file of classes '{path}' is not JSON: {error}. {EXPECTED}") from error
    names = content.get("names") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise OptionError(f"The file of classes '{path}' has no list of strings \"names\". {EXPECTED}")
    classes = _numbered(tuple(names), path)
    void = content.get("void")
    if void is not None and not _is_integer(void, len(names)):
        raise OptionError(
            f"\"void\" in '{path}' is {void!r}; expected the index of one of the {len(names)} names, or nothing."
        )
    return replace(classes, palette=_palette(content.get("palette"), classes, path), void=void)


def _numbered(names: tuple[str, ...], path: Path) -> Classes:
    if not names:
        raise OptionError(f"The file of classes '{path}' names no class. {EXPECTED}")
    return replace(generic(len(names)), dataset=path.stem, names=names)


def _palette(colours: Any, classes: Classes, path: Path) -> tuple[Colour, ...]:
    if colours is None:
        return classes.palette
    count = len(classes.names)
    if not isinstance(colours, list) or len(colours) != count or not all(_is_colour(c) for c in colours):
        raise OptionError(
            f"\"palette\" in '{path}' does not hold a colour for each of the {count} names; "
            f"expected {count} lists [red, green, blue] of integers from 0 to 255. Without it, colours are chosen."
        )
    return tuple((red, green, blue) for red, green, blue in colours)


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_integer(channel, 256) for channel in value)


def _is_integer(value: Any, below: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below
