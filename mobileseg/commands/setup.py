"""`mobileseg setup`."""

from __future__ import annotations

from typing import Annotated

import typer

from mobileseg import as_json, options
from mobileseg.commands.screens import answer, working


def setup(
    context: typer.Context,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="A device of 'mobileseg list devices'.")],
    sources: options.PackageSources = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Install what a device needs, once, in the user's cache."""
    from mobileseg import devices

    with working(context, quiet=quiet, verbose=verbose) as screen:
        installed = devices.set_up(device, sources=sources, progress=screen.stage)
    if json:
        as_json.emit(installed)
    else:
        answer().installed(installed)
