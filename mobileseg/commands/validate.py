"""`mobileseg validate`."""

from __future__ import annotations

import typer

from mobileseg import as_json, options
from mobileseg.commands.screens import working
from mobileseg.registry import HOST


def validate(
    context: typer.Context,
    artifact: options.ArtifactArgument,
    against: options.Against = None,
    images: options.Images = None,
    labels: options.Labels = None,
    image_count: options.AllOrSome = None,
    random: options.Random = None,
    seed: options.Seed = 0,
    size: options.PictureSize = None,
    min_agreement: options.MinAgreement = None,
    min_sqnr: options.MinSqnr = None,
    max_miou_drop: options.MaxMiouDrop = None,
    bisect: options.Bisect = False,
    baseline: options.Baseline = None,
    report: options.ReportFile = None,
    junit: options.JUnitFile = None,
    markdown: options.MarkdownFile = None,
    html: options.HtmlFile = None,
    input_layout: options.Layout = None,
    input_range: options.InputRange = None,
    output_layout: options.OutputLayout = None,
    head: options.FileHead = None,
    raw_input: options.FileRawInput = None,
    precision: options.FilePrecision = None,
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
    device: options.Device = HOST,
    threads: options.Threads = 1,
    compute_units: options.ComputeUnits = "all",
    jobs: options.Workers = None,
    cluster: options.Cluster = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Hold a finished file against the checkpoint, or another file, on pictures.

    Exit code 3 where a gate is not met.
    """
    from mobileseg import proving
    from mobileseg.layer_tables import show_sqnr
    from mobileseg.summaries import write_summaries
    from mobileseg.types import GateLimits

    with working(context, quiet=quiet, verbose=verbose) as screen:
        found = proving.validate(
            artifact,
            against=against,
            images=images,
            labels=labels,
            image_count=image_count,
            random=random,
            seed=seed,
            description=proving.FileDescription(input_layout, input_range, output_layout, head, raw_input, precision),
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
            classes=classes,
            size=size,
            gates=GateLimits(min_agreement, min_sqnr, max_miou_drop),
            baseline=baseline,
            bisect=bisect,
            device=device,
            threads=threads or 1,
            compute_units=compute_units,
            jobs=jobs,
            cluster=cluster,
            progress=screen.predicting,
        )
        write_summaries(found, report=report, junit=junit, markdown=markdown, html=html)
        screen.validated(found)
        show_sqnr(screen, found.report["operators"].get("values", ()))
    if json:
        as_json.emit(found.report)
    raise typer.Exit(found.exit_code)
