"""`mobileseg predict`."""

from __future__ import annotations

import typer

from mobileseg import as_json, options
from mobileseg.commands.screens import working
from mobileseg.errors import PictureError
from mobileseg.jobs import DEFAULT_PREDICTIONS


def predict(
    context: typer.Context,
    file: options.ModelArgument,
    inputs: options.Inputs,
    output: options.PredictionOutput = DEFAULT_PREDICTIONS,
    classes: options.ClassesName = None,
    opacity: options.Opacity = 0.5,
    legend: options.Legend = False,
    video_masks: options.VideoMasks = False,
    size: options.PictureSize = None,
    model: options.ModelFactory = None,
    arch: options.Arch = None,
    variant: options.VariantName = None,
    num_classes: options.NumClasses = None,
    preprocessing: options.PreprocessingName = None,
    threads: options.Threads = None,
    compute_units: options.ComputeUnits = "all",
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Draw what a file or a checkpoint sees in pictures and videos.

    Label maps, whose pixels are class indices, and overlays, in the size of the pictures.
    """
    from mobileseg import prediction

    with working(context, quiet=quiet, verbose=verbose) as screen:
        result = prediction.predict(
            None if file == "demo" else file,
            inputs,
            output=output,
            classes=classes,
            opacity=opacity,
            legend=legend,
            video_masks=video_masks,
            size=size,
            factory=model,
            architecture=arch,
            variant=variant,
            num_classes=num_classes,
            preprocessing=preprocessing,
            threads=threads,
            compute_units=compute_units,
            progress=screen.predicting,
        )
        screen.predicted(result)
    if json:
        as_json.emit(result)
    raise typer.Exit(PictureError.exit_code if result.failures else 0)
