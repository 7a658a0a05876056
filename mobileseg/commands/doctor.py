"""`mobileseg doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobileseg import as_json, options
from mobileseg.commands.screens import answer, working
from mobileseg.errors import UnavailableError, UsageError


def doctor(
    context: typer.Context,
    checkpoint: Annotated[Path | None, typer.Argument(metavar="CHECKPOINT", help="A network.")] = None,
    to: options.To = "all",
    int8: options.Int8 = False,
    fp16: options.Fp16 = False,
    precision: options.Precision = None,
    size: options.PictureSize = None,
    delegate: options.Delegate = None,
    model: options.ModelFactory = None,
    arch: options.Arch = None,
    variant: options.VariantName = None,
    num_classes: options.NumClasses = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Which backends work here, and what would be rewritten.

    With a checkpoint: what would be done to it for each target, and what cannot be.
    """
    from mobileseg import diagnosis

    chosen = options.precision_of(precision, {"int8": int8, "fp16": fp16})
    with working(context, quiet=quiet, verbose=verbose) as screen, screen.stage("Examine"):
        found = diagnosis.doctor(
            checkpoint,
            to=to,
            precision=chosen,
            size=size,
            architecture=arch,
            variant=variant,
            num_classes=num_classes,
            model=model,
            options={"delegate": delegate},
        )
    if json:
        as_json.emit(as_json.diagnosed(found))
    else:
        answer().diagnosed(found)
    if not found.usable:
        raise typer.Exit(UnavailableError.exit_code)
    raise typer.Exit(0 if found.convertible else UsageError.exit_code)
