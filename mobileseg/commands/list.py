"""`mobileseg list`."""

from __future__ import annotations

from typing import Annotated

import typer

from mobileseg import as_json, options
from mobileseg.commands.screens import answer, working


def list_(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="architectures, targets, precisions or devices.")],
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """What there is to choose from."""
    from mobileseg.listing import listing

    with working(context, quiet=True, verbose=verbose):
        table = listing(kind)
    if json:
        as_json.emit(as_json.listed(table))
    else:
        answer().listed(table)
