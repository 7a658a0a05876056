"""Where a command speaks: progress on stderr, what it was asked to tell on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mobileseg.noise import sent_to

if TYPE_CHECKING:
    import typer

    from mobileseg.console import Screen


@contextmanager
def working(context: typer.Context, *, quiet: bool, verbose: bool) -> Iterator[Screen]:
    """A screen for progress, while what others print goes to the log, or with ``--verbose`` to stderr."""
    from mobileseg.console import Screen

    with sent_to(None if verbose else context.obj) as stderr:
        yield Screen(stderr, quiet=quiet)


def answer() -> Screen:
    """A screen for what a command was asked to tell: stdout, so that it can be piped."""
    from mobileseg.console import Screen

    return Screen(sys.stdout)
