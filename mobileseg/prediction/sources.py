"""What a prediction reads, and what its outputs are called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mobileseg import video
from mobileseg.errors import PictureError
from mobileseg.pictures import find_pictures

MASKS, OVERLAYS, LEGEND = "masks", "overlays", "legend.png"
"""What is written below the output folder."""


@dataclass(frozen=True)
class Source:
    """A picture or a video. ``name``: where its outputs stand below the folders of masks and of overlays, without a
    suffix."""

    path: Path
    name: str
    is_video: bool


def find_sources(inputs: Sequence[str | Path], output: Path) -> tuple[Source, ...]:
    """The pictures and videos named, and the pictures below the folders named, in the order given, each once.

    What an earlier run wrote to ``output`` is left out. Raises `PictureError` for an input that does not exist, or
    where there is none at all.
    """
    missing = [str(given) for given in inputs if not Path(given).exists()]
    if missing or not inputs:
        found = f"{', '.join(missing[:5])} does not exist" if missing else "No picture was named"
        raise PictureError(f"{found}; expected pictures, folders of pictures, or video files.")
    written = {(output / part).resolve() for part in (MASKS, OVERLAYS, LEGEND)}
    seen: set[Path] = set()
    taken: dict[str, Path] = {}
    sources = []
    for root in map(Path, inputs):
        for path in find_pictures(root) if root.is_dir() else [root]:
            actual = path.resolve()
            if actual in seen or (root.is_dir() and not written.isdisjoint((actual, *actual.parents))):
                continue
            seen.add(actual)
            folder = root if root.is_dir() else root.parent
            name = next(n for n in _names(path, folder, taken) if n.casefold() not in taken)
            taken[name.casefold()] = folder
            sources.append(Source(path, name, is_video=path.suffix.lower() in video.SUFFIXES))
    if not sources:
        raise PictureError(f"All pictures found are what was written to '{output}'; choose another --output DIR.")
    return tuple(sources)


def _names(path: Path, folder: Path, taken: dict[str, Path]) -> Iterator[str]:
    """``street/1`` for ``street/1.jpg`` of a folder; where that is taken, what tells it from the other file: its suffix
    in the same folder, else the folder's name; and numbers at last."""
    relative = PurePosixPath(path.relative_to(folder).as_posix())
    plain = str(relative.with_suffix(""))
    yield plain
    if taken.get(plain.casefold()) == folder:
        yield str(relative)
    yield f"{folder.resolve().name}/{plain}"
    yield f"{folder.resolve().name}/{relative}"
    number = 2
    while True:
        yield f"{plain}-{number}"
        number += 1
