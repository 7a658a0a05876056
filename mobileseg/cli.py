"""The command line: parse, call one library function, show what it returns, end with its exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobileseg import __version__, as_json, options
from mobileseg.errors import MobilesegError, PictureError, UnavailableError, UsageError
from mobileseg.failures import Failures
from mobileseg.interruption import KEYBOARD_INTERRUPT, watched
from mobileseg.jobs import DEFAULT_CALIBRATION, DEFAULT_OUTPUT, DEFAULT_PICTURES, DEFAULT_PREDICTIONS
from mobileseg.noise import Log, sent_to

if TYPE_CHECKING:
    from mobileseg.console import Screen

app = typer.Typer(
    name="mobileseg",
    help="Trained real-time segmentation checkpoints to files that phones run, proven equal to the checkpoint.",
    add_completion=False,
    # Rich's help pages would double the time that --help takes.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 done; 1 a fault of ours; 2 wrong usage or bad input; 3 a gate was not
    met; 4 a backend is not available; 130 or 143 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    failures = Failures(as_json="--json" in words, verbose=not {"--verbose", "-v"}.isdisjoint(words))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    log = Log()
    with watched() as interruption:
        try:
            code = int(app(words or ["--help"], prog_name="mobileseg", standalone_mode=False, obj=log) or 0)
            # Typer makes a KeyboardInterrupt an exit code, always SIGINT's.
            stopped = code == KEYBOARD_INTERRUPT or interruption.received is not None
            code = failures.interrupted(interruption) if stopped else code
        except MobilesegError as error:
            fault = error.exit_code == MobilesegError.exit_code
            code = failures.fault(error, log) if fault else failures.told(error, error.exit_code)
        except typer.TyperException as error:
            code = failures.told(UsageError(f"{error.format_message()} (See mobileseg --help.)"), UsageError.exit_code)
        except KeyboardInterrupt:
            code = failures.interrupted(interruption)
        # The outermost boundary: what arrives here is a defect of ours or of a library, of whatever kind, and a user
        # gets a paragraph and the place of the log instead of a traceback.
        except Exception as error:  # noqa: BLE001
            code = failures.interrupted(interruption) if interruption.received else failures.fault(error, log)
        finally:
            log.close()
    return code


@contextmanager
def _working(context: typer.Context, *, quiet: bool, verbose: bool) -> Iterator[Screen]:
    """A screen for progress, while what others print goes to the log, or with ``--verbose`` to stderr."""
    from mobileseg.console import Screen

    with sent_to(None if verbose else context.obj) as stderr:
        yield Screen(stderr, quiet=quiet)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"mobileseg {__version__}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


@app.command()
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
    images: options.Images = None,
    labels: options.Labels = None,
    image_count: options.ImageCount = DEFAULT_PICTURES,
    seed: options.Seed = 0,
    min_agreement: options.MinAgreement = None,
    min_sqnr: options.MinSqnr = None,
    max_miou_drop: options.MaxMiouDrop = None,
    opset: options.Opset = None,
    delegate: options.Delegate = None,
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
    with _working(context, quiet=quiet, verbose=verbose) as screen:
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
                "etrecord": etrecord or None,
                "deployment_target": deployment_target,
                "author": author,
                "license": license_,
            },
            gates=GateLimits(min_agreement, min_sqnr, max_miou_drop),
            calibration=calibration,
            calibration_size=calibration_size,
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


@app.command()
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
    baseline: options.Baseline = None,
    report: options.ReportFile = None,
    junit: options.JUnitFile = None,
    markdown: options.MarkdownFile = None,
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
    threads: options.Threads = 1,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Hold a finished file against the checkpoint, or another file, on pictures.

    Exit code 3 where a gate is not met.
    """
    from mobileseg import proving
    from mobileseg.types import GateLimits

    with _working(context, quiet=quiet, verbose=verbose) as screen:
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
            threads=threads or 1,
            progress=screen.predicting,
        )
        proving.write_summaries(found, report=report, junit=junit, markdown=markdown)
        screen.validated(found)
    if json:
        as_json.emit(found.report)
    raise typer.Exit(found.exit_code)


@app.command()
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
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Draw what a file or a checkpoint sees in pictures and videos.

    Label maps, whose pixels are class indices, and overlays, in the size of the pictures.
    """
    from mobileseg import prediction

    with _working(context, quiet=quiet, verbose=verbose) as screen:
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
            progress=screen.predicting,
        )
        screen.predicted(result)
    if json:
        as_json.emit(result)
    raise typer.Exit(PictureError.exit_code if result.failures else 0)


@app.command()
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
    with _working(context, quiet=quiet, verbose=verbose) as screen, screen.stage("Examine"):
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
        _answer().diagnosed(found)
    if not found.usable:
        raise typer.Exit(UnavailableError.exit_code)
    raise typer.Exit(0 if found.convertible else UsageError.exit_code)


@app.command()
def inspect(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint or an artifact.")],
    arch: options.Arch = None,
    variant: options.VariantName = None,
    num_classes: options.NumClasses = None,
    model: options.ModelFactory = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """What a checkpoint or an artifact is.

    A checkpoint's network, preprocessing and sizes; an artifact's operators, tensors, quantization and bytes.
    """
    from mobileseg import inspection

    with _working(context, quiet=quiet, verbose=verbose) as screen, screen.stage("Inspect"):
        summary = inspection.inspect(file, architecture=arch, variant=variant, num_classes=num_classes, model=model)
    if json:
        as_json.emit(summary)
    else:
        _answer().inspected(summary)


@app.command("list")
def list_(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="architectures, targets, precisions or devices.")],
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """What there is to choose from."""
    from mobileseg.listing import listing

    with _working(context, quiet=True, verbose=verbose):
        table = listing(kind)
    if json:
        as_json.emit(as_json.listed(table))
    else:
        _answer().listed(table)


def _answer() -> Screen:
    """A screen for what a command was asked to tell: stdout, so that it can be piped."""
    from mobileseg.console import Screen

    return Screen(sys.stdout)
