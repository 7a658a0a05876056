"""`mobileseg inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobileseg import as_json, options
from mobileseg.commands.screens import answer, working


def inspect(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint or an artifact.")],
    arch: options.Arch = None,
    variant: options.VariantName = None,
    num_classes: options.NumClasses = None,
    model: options.ModelFactory = None,
    time: options.Time = False,
    runs: options.TimeRuns = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """What a checkpoint or an artifact is.

    A checkpoint's network, preprocessing and sizes; an artifact's operators, tensors, quantization and bytes, with
    --time how long its operators take.
    """
    from mobileseg import inspection

    with working(context, quiet=quiet, verbose=verbose) as screen, screen.stage("Inspect"):
        summary = inspection.inspect(
            file,
            architecture=arch,
            variant=variant,
            num_classes=num_classes,
            model=model,
            time_runs=options.time_runs(time, runs),
        )
    if json:
        as_json.emit(summary)
    else:
        answer().inspected(summary)
