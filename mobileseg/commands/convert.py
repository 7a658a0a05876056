"""`mobileseg convert`."""

from __future__ import annotations

import typer

from mobileseg import as_json, options
from mobileseg.commands.screens import working
from mobileseg.jobs import DEFAULT_CALIBRATION, DEFAULT_OUTPUT, DEFAULT_PICTURES
from mobileseg.types import INT8


def convert(
    context: typer.Context,
    checkpoint: options.CheckpointArgument = None,
    to: options.To = "tflite",
    int8: options.Int8 = False,
    fp16: options.Fp16 = False,
    precision: options.Precision = None,
    size: options.PictureSize = None,
    head: options.HeadName = "logits",
    output_size: options.OutputSizeName = "network",
    raw_input: options.RawInput = False,
    output: options.Output = DEFAULT_OUTPUT,
    jobs: options.Jobs = None,
    dry_run: options.DryRun = False,
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
    classes: options.ClassesName = None,
    calibration: options.Calibration = None,
    calibration_size: options.CalibrationSize = DEFAULT_CALIBRATION,
    calibration_labels: options.CalibrationLabels = None,
    ranges: options.Ranges = INT8.ranges,
    no_equalize: options.NoEqualize = False,
    max_evaluations: options.MaxEvaluations = INT8.max_evaluations,
    images: options.Images = None,
    labels: options.Labels = None,
    image_count: options.ImageCount = DEFAULT_PICTURES,
    seed: options.Seed = 0,
    min_agreement: options.MinAgreement = None,
    min_sqnr: options.MinSqnr = None,
    max_miou_drop: options.MaxMiouDrop = None,
    opset: options.Opset = None,
    delegate: options.Delegate = None,
    input_dtype: options.InputType = None,
    output_dtype: options.OutputType = None,
    etrecord: options.EtRecord = False,
    deployment_target: options.DeploymentTarget = None,
    author: options.Author = None,
    license_: options.License = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Convert a checkpoint to files that phones run.

    Each file is loaded, run and compared with the checkpoint before it gets its name.
    """
    from mobileseg import pipeline
    from mobileseg.types import GateLimits

    chosen = options.precision_of(precision, {"int8": int8, "fp16": fp16})
    with working(context, quiet=quiet, verbose=verbose) as screen:
        result = pipeline.convert(
            checkpoint,
            to=to,
            precision=chosen,
            size=size,
            head=head,
            output_size=output_size,
            raw_input=raw_input,
            output=output,
            model=model,
            preprocessing=preprocessing,
            preprocessing_overrides={
                "mean": mean,
                "std": std,
                "scale": scale,
                "post_scale": post_scale,
                "channel_order": channel_order,
            },
            classes=classes,
            architecture=arch,
            variant=variant,
            num_classes=num_classes,
            options={
                "opset": opset,
                "delegate": delegate,
                "input_dtype": input_dtype,
                "output_dtype": output_dtype,
                "etrecord": etrecord or None,
                "deployment_target": deployment_target,
                "author": author,
                "license": license_,
            },
            gates=GateLimits(min_agreement, min_sqnr, max_miou_drop),
            calibration=calibration,
            calibration_size=calibration_size,
            calibration_labels=calibration_labels,
            recipe=options.recipe_of(ranges, no_equalize, max_evaluations),
            images=images,
            labels=labels,
            image_count=image_count,
            seed=seed,
            jobs=jobs,
            dry_run=dry_run,
            progress=screen.stage,
            announce=screen.loaded,
        )
        screen.converted(result)
    for failure in result.failures:
        if failure.traceback:
            context.obj.keep(failure.traceback)
    if json:
        as_json.emit(as_json.converted(result))
    raise typer.Exit(result.exit_code)
