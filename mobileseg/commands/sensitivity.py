"""`mobileseg sensitivity`."""

from __future__ import annotations

import typer

from mobileseg import as_json, options
from mobileseg.commands.screens import answer, working
from mobileseg.jobs import DEFAULT_CALIBRATION


def sensitivity(
    context: typer.Context,
    checkpoint: options.CheckpointArgument = None,
    to: options.ToOne = "tflite",
    size: options.PictureSize = None,
    calibration: options.Calibration = None,
    calibration_size: options.CalibrationSize = DEFAULT_CALIBRATION,
    seed: options.Seed = 0,
    min_agreement: options.MinAgreement = None,
    top: options.Top = options.TOP,
    report: options.ReportFile = None,
    html: options.HtmlFile = None,
    model: options.ModelFactory = None,
    arch: options.Arch = None,
    variant: options.VariantName = None,
    num_classes: options.NumClasses = None,
    preprocessing: options.PreprocessingName = None,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    post_scale: options.PostScale = None,
    channel_order: options.ChannelOrder = None,
    delegate: options.Delegate = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Which layers lose accuracy in int8, and which to keep in float.

    Simulated on the calibration pictures; no file of a network is written.
    """
    from dataclasses import replace

    from mobileseg import sensing
    from mobileseg.layer_tables import show_sensitivity
    from mobileseg.summaries import write_sensitivity
    from mobileseg.types import INT8

    recipe = INT8 if min_agreement is None else replace(INT8, min_agreement=min_agreement)
    with working(context, quiet=quiet, verbose=verbose) as screen:
        found = sensing.sensitivity(
            checkpoint,
            to=to,
            size=size,
            model=model,
            architecture=arch,
            variant=variant,
            num_classes=num_classes,
            preprocessing=preprocessing,
            preprocessing_overrides={
                "mean": mean,
                "std": std,
                "scale": scale,
                "post_scale": post_scale,
                "channel_order": channel_order,
            },
            options={"delegate": delegate},
            calibration=calibration,
            calibration_size=calibration_size,
            seed=seed,
            recipe=recipe,
            progress=screen.stage,
            announce=screen.loaded,
        )
        write_sensitivity(found, report=report, html=html)
    if json:
        as_json.emit(found.report)
    else:
        show_sensitivity(answer(), found.report, top)
