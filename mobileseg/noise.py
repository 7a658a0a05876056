"""What other people's code prints while a command runs: sent to a log file, away from the terminal and from stdout.

Done to the file descriptors, since the C++ below the converters and runtimes writes to them without asking Python.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

STDOUT, STDERR = 1, 2


class Log:
    """A temporary file, made when something is first sent there."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.kept = False

    def open(self) -> int:
        """A descriptor that appends to the file."""
        if self.path is None:
            descriptor, name = tempfile.mkstemp(prefix="mobileseg-", suffix=".log")
            self.path = Path(name)
            return descriptor
        return os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def keep(self, text: str) -> None:
        """Add ``text`` and let the file stay."""
        with os.fdopen(self.open(), "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        self.kept = True

    def close(self) -> None:
        """Remove the file, unless it is to be kept."""
        if self.path is not None and not self.kept:
            self.path.unlink(missing_ok=True)


@contextmanager
def sent_to(log: Log | None) -> Iterator[TextIO]:
    """Stdout and stderr of this process, its libraries and its children go to the log; where None, both go to stderr.

    Yields a stream to what stderr was.
    """
    _flush()
    ours = _beside(sys.stderr)
    kept = os.dup(STDOUT), os.dup(STDERR)
    destination = os.dup(STDERR) if log is None else log.open()
    # Not sys.stdout itself, which may be a stream in memory; and never closed, since a library's log handler may keep
    # the stream that it finds.
    out, err = (
        open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        for descriptor in (STDOUT, STDERR)
    )
    try:
        os.dup2(destination, STDOUT)
        os.dup2(destination, STDERR)
        with redirect_stdout(out), redirect_stderr(err):
            yield ours
    finally:
        out.flush()
        err.flush()
        _flush()
        for descriptor, original in zip((STDOUT, STDERR), kept, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
        os.close(destination)


def _beside(stream: TextIO) -> TextIO:
    """The stream itself where it is not on descriptor 2; else one to the same place that a redirection leaves alone."""
    try:
        if stream.fileno() != STDERR:
            return stream
    except OSError:  # a stream in memory
        return stream
    return os.fdopen(os.dup(STDERR), "w", buffering=1, encoding=stream.encoding, errors="backslashreplace")


def _flush() -> None:
    """What Python and the C library hold back goes where it was written to, not where it is sent to next."""
    import ctypes

    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)
