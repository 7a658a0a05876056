"""The stages put together: checkpoint -> export -> rewrite -> lower (-> quantize) -> run -> compare -> gates -> report.

The one module that imports all four folders. Nothing heavy is imported before the stage that needs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg import outputs, registry
from mobileseg.description import embedded_metadata
from mobileseg.errors import CheckpointError, MobilesegError, UsageError, unknown_option
from mobileseg.jobs import DEFAULT_CALIBRATION, DEFAULT_OUTPUT, DEFAULT_PICTURES, Job, check_size, prepare
from mobileseg.settings import resolve_preprocessing
from mobileseg.types import (
    Artifact,
    Checkpoint,
    Classes,
    ConvertedArtifact,
    ConvertResult,
    GateLimits,
    NotRun,
    Preprocessing,
    Rewrite,
    Size,
)

if TYPE_CHECKING:
    from mobileseg.converters.export import Exported
    from mobileseg.converters.target import Target
    from mobileseg.sources import PictureSource
    from mobileseg.validation.report import QuantizationRecord

Progress = Callable[[str], AbstractContextManager[None]]
"""Called with a stage's name; the stage runs inside what it returns."""


def _silent(stage: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass
class _Clock:
    """Seconds per stage."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with self.progress(name):
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class _Subject:
    """What all targets of one conversion share. ``stem``: of the files' names."""

    network: Checkpoint
    size: Size
    classes: Classes
    program: Exported
    parity: PictureSource
    calibration: PictureSource
    stem: str


def demo_checkpoint(name: str = "enet") -> Checkpoint:
    """One of the embedded demo networks."""
    from mobileseg.checkpoint import load_checkpoint
    from mobileseg.mobile_assets.demo import DEMO

    if name not in DEMO:
        raise unknown_option("demo network", name, DEMO)
    demo = DEMO[name]
    loaded = load_checkpoint(demo.weights, architecture=demo.architecture, variant=demo.variant)
    return replace(loaded, size=demo.size, notices=())


def open_network(
    checkpoint: str | Path | None,
    *,
    architecture: str | None = None,
    variant: str | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | str | Path | None = None,
    overrides: dict[str, Any] | None = None,
) -> Checkpoint:
    """A checkpoint (the demo's where None) with the preprocessing asked for."""
    from mobileseg.checkpoint import load_checkpoint

    if checkpoint is None:
        loaded = demo_checkpoint()
    else:
        loaded = load_checkpoint(Path(checkpoint), architecture=architecture, variant=variant, num_classes=num_classes)
    chosen = resolve_preprocessing(preprocessing, loaded.preprocessing, overrides or {})
    return replace(loaded, preprocessing=chosen)


def classes_of(checkpoint: Checkpoint, classes: str | Path | None, *, demo: bool) -> Classes:
    """Names and palette: those asked for, the demo's, or the usual ones for the number of classes."""
    from mobileseg.mobile_assets.labels import classes_for, load_classes

    if classes is not None:
        return load_classes(str(classes), checkpoint.num_classes)
    return load_classes("demo", checkpoint.num_classes) if demo else classes_for(checkpoint.num_classes)


def convert(
    checkpoint: str | Path | None = None,
    *,
    to: str | Sequence[str] = "tflite",
    precision: str = "fp32",
    size: Size | None = None,
    head: str = "logits",
    raw_input: bool = False,
    output: str | Path = DEFAULT_OUTPUT,
    preprocessing: Preprocessing | str | Path | None = None,
    preprocessing_overrides: dict[str, Any] | None = None,
    classes: str | Path | None = None,
    architecture: str | None = None,
    variant: str | None = None,
    num_classes: int | None = None,
    opset: int | None = None,
    gates: GateLimits | None = None,
    calibration: str | Path | None = None,
    calibration_size: int = DEFAULT_CALIBRATION,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    image_count: int = DEFAULT_PICTURES,
    seed: int = 0,
    dry_run: bool = False,
    progress: Progress = _silent,
    announce: Callable[[Checkpoint, Size], None] | None = None,
) -> ConvertResult:
    """Convert a checkpoint to files that were each loaded, run and compared before they got their name.

    ``checkpoint``: a path, or None for the embedded demo network. ``to``: target names, or ``"all"``. ``size``: (H, W)
    pixels, the network's own where None. ``announce`` is told the checkpoint as soon as it is loaded. ``dry_run``: all
    checks and the rewriting, no file.

    Raises `UsageError` and its kinds for bad input, `MissingExtraError` for a package that is not installed. A gate
    that is not met is no exception: it stands in the result's ``passed``, in the report, and the file is there to be
    looked at.
    """
    demo = checkpoint is None
    job = prepare(
        to=to,
        precision=precision,
        head=head,
        raw_input=raw_input,
        output=output,
        opset=opset,
        gates=gates,
        calibration=calibration,
        calibration_size=calibration_size,
        images=images,
        labels=labels,
        image_count=image_count,
        seed=seed,
        demo=demo,
    )
    clock = _Clock(progress)
    with nullcontext(job.output) if dry_run else outputs.folder(job.output):
        with clock.stage("Load the checkpoint"):
            network = open_network(
                checkpoint,
                architecture=architecture,
                variant=variant,
                num_classes=num_classes,
                preprocessing=preprocessing,
                overrides=preprocessing_overrides,
            )
            chosen_size = check_size(network, size or network.size)
            named = classes_of(network, classes, demo=demo)
        if announce is not None:
            announce(network, chosen_size)
        from mobileseg.sources import calibration_pictures, parity_pictures

        parity = parity_pictures(job, chosen_size, demo=demo)
        calibrating = calibration_pictures(job, chosen_size)
        with clock.stage("Export"):
            program = exported(network, chosen_size, job)
        stem = "demo-enet" if demo else network.path.name.removesuffix(".tar").rsplit(".", 1)[0]
        subject = _Subject(network, chosen_size, named, program, parity, calibrating, stem)
        return ConvertResult(tuple(_convert_one(job, target, subject, clock, dry_run) for target in job.targets))


def exported(network: Checkpoint, size: Size, job: Job) -> Exported:
    """The network with its preprocessing and head, traced at one size."""
    from mobileseg.converters.export import Deployed, export

    preprocessing = None if job.raw_input else network.preprocessing
    try:
        return export(Deployed(network.network, preprocessing, job.head), size)
    except RuntimeError as error:
        raise CheckpointError(
            f"This network could not be traced at {size[0]}x{size[1]}: {str(error).splitlines()[0]}. "
            "Another --size may work."
        ) from error


def _convert_one(job: Job, target: Target, subject: _Subject, clock: _Clock, dry_run: bool) -> ConvertedArtifact:
    from mobileseg.converters.export import refuse_what_is_left, rewrite
    from mobileseg.converters.target import Lowering

    final = job.output / f"{subject.stem}.{job.precision}{target.suffix}"
    timed = _Clock(clock.progress, dict(clock.seconds))
    with timed.stage(f"Rewrite for {target.name}"):
        rewritten = rewrite(subject.program, target.name, job.precision)
        refuse_what_is_left(rewritten, target.forbidden)
    if dry_run:
        artifact = Artifact(final, target.name, job.precision, (), ())
        return ConvertedArtifact(artifact, {"not_run": "dry run"}, None, NotRun("dry run"), timed.seconds)
    embedded = embedded_metadata(job, target, subject.network, subject.classes, subject.size)
    lowering = Lowering(job.precision, job.head, embedded, job.options)
    with outputs.partial(final) as unfinished:
        with timed.stage(f"Lower to {target.name}"), outputs.explained(final):
            target.lower(rewritten, lowering, unfinished)
        quantization: QuantizationRecord | NotRun = NotRun(f"{job.precision} is not quantized")
        if (target.name, job.precision) in registry.QUANTIZERS:
            quantization = _quantize(job, target, unfinished, subject.calibration, timed)
        with timed.stage(f"Run and compare {target.name}"):
            return _prove(job, subject, unfinished, final, rewritten.rewrites, quantization, timed)


def _quantize(job: Job, target: Target, path: Path, source: PictureSource, clock: _Clock) -> QuantizationRecord:
    from mobileseg.validation.report import QuantizationRecord

    quantize = registry.quantizer(target.name, job.precision)
    with clock.stage(f"Quantize on {source.count} pictures"), outputs.explained(path):
        quantized = quantize(path.read_bytes(), source.pictures())
        path.write_bytes(quantized.content)
    return QuantizationRecord(quantized.recipe, source.name, source.count, quantized.kept_float)


def _prove(
    job: Job,
    subject: _Subject,
    path: Path,
    final: Path,
    rewrites: tuple[Rewrite, ...],
    quantization: QuantizationRecord | NotRun,
    clock: _Clock,
) -> ConvertedArtifact:
    """Load the written file in its own runtime, compare, hold the gates, write the report, give both their names."""
    from mobileseg.validation.gates import all_passed, apply_gates
    from mobileseg.validation.parity import compare, reference_of, reference_precision
    from mobileseg.validation.report import build_report, write_report
    from mobileseg.validation.runners import open_artifact

    try:
        runner = open_artifact(path)
    except UsageError as error:
        raise MobilesegError(f"The file that was just written does not load. {error}") from error
    network, parity = subject.network, subject.parity
    labels = parity.labels() if parity.labels is not None else None
    result = compare(
        reference_of(network),
        runner,
        parity.pictures(),
        labels,
        void=subject.classes.void,
        preprocessing=network.preprocessing,
    )
    result = replace(result, notes=(*result.notes, f"compared on {parity.name}"))
    gates = apply_gates(result, job.precision, job.gates)
    missed = any(g.name == "sqnr_db" and not g.passed for g in gates)
    if missed and job.head == "logits" and job.gates.min_sqnr_db is None:
        result = replace(result, reference_sqnr_db=reference_precision(network, parity.pictures()))
        gates = apply_gates(result, job.precision, job.gates)
    report = build_report(
        checkpoint=network,
        artifact=runner.artifact,
        rewrites=rewrites,
        quantization=quantization,
        parity=result,
        gates=gates,
        latency=NotRun("convert does not measure latency"),
    )
    report["artifact"]["path"] = final.as_posix()
    report_path = final.with_name(f"{final.name}.report.json")
    with outputs.partial(report_path) as unfinished, outputs.explained(final):
        write_report(report, unfinished)
        path.replace(final)
        unfinished.replace(report_path)
    artifact = replace(runner.artifact, path=final)
    return ConvertedArtifact(artifact, report, report_path, all_passed(gates), clock.seconds)
