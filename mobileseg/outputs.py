"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobileseg.errors import OutputError

_NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what the operating system says of writing ``path`` into an `OutputError`; other faults pass through."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        raise OutputError(
            f"Could not write '{path}': {error.strerror or error}. "
            "Free some space or choose another folder with --output DIR."
        ) from error


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """An output folder that can be written, made if need be; one that we made and left empty is removed again."""
    made = [p for p in (path, *path.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".mobileseg-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"The output folder '{path}' cannot be written: {error.strerror or error}. "
            "Choose another with --output DIR."
        ) from error
    try:
        yield path
    finally:
        for created in made:
            if created.is_dir() and not any(created.iterdir()):
                created.rmdir()


def settle(unfinished: Path, final: Path) -> None:
    """Give a finished file or folder its name, in place of what had it before."""
    if final.is_dir() and not final.is_symlink():
        old = final.with_name(f".{final.name}.{os.getpid()}.old")
        final.replace(old)
        unfinished.replace(final)
        shutil.rmtree(old)
    else:
        unfinished.replace(final)


@contextmanager
def partial(final: Path) -> Iterator[Path]:
    """A temporary path beside ``final``, of the same suffix; what still lies there at the end is removed."""
    unfinished = final.with_name(f".{final.stem}.{os.getpid()}.partial{final.suffix}")
    try:
        yield unfinished
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        unfinished.unlink(missing_ok=True)
