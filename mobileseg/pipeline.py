"""The stages put together: checkpoint -> export -> the targets' files, each made and proven -> gates -> report.

The one module that imports all four folders. Nothing heavy is imported before the stage that needs it.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg import making_apart, outputs, registry, workers
from mobileseg.description import embedded_metadata
from mobileseg.errors import CheckpointError, unknown_option
from mobileseg.factories import blaming
from mobileseg.jobs import DEFAULT_CALIBRATION, DEFAULT_OUTPUT, DEFAULT_PICTURES, Job, check_size, prepare
from mobileseg.making import Clock, Failure, Made, Progress, Task, attempt, make, rewritten_for, silent
from mobileseg.quick_graphs import quick_graphs
from mobileseg.settings import resolve_preprocessing
from mobileseg.types import (
    INT8,
    Artifact,
    Checkpoint,
    Classes,
    ConvertedArtifact,
    ConvertResult,
    FailedTarget,
    Gate,
    GateLimits,
    Int8Recipe,
    NotRun,
    Preprocessing,
    Size,
)

if TYPE_CHECKING:
    from torch import nn

    from mobileseg.converters.export import Exported
    from mobileseg.converters.target import Target
    from mobileseg.sources import PictureSource
    from mobileseg.validation.report import QuantizationRecord


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
    model: str | Callable[..., nn.Module] | nn.Module | None = None,
    size: Size | None = None,
    preprocessing: Preprocessing | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """A network with the preprocessing asked for: a checkpoint's, a ``model``'s with or without one, or the demo's
    where both are None."""
    from mobileseg.checkpoint import load_checkpoint

    if checkpoint is None and model is None:
        loaded = demo_checkpoint()
    else:
        loaded = load_checkpoint(
            None if checkpoint is None else Path(checkpoint),
            architecture=architecture,
            variant=variant,
            num_classes=num_classes,
            model=model,
            size=size,
        )
    chosen = resolve_preprocessing(preprocessing, loaded.preprocessing, overrides or {})
    return replace(loaded, preprocessing=chosen)


def classes_of(checkpoint: Checkpoint, classes: str | Path | None, *, demo: bool) -> Classes:
    """Names and palette: those asked for, the demo's, the network's own, or the usual ones for so many classes."""
    from mobileseg.mobile_assets.labels import classes_for, coloured, load_classes

    count, own = checkpoint.num_classes, checkpoint.classes
    if classes is not None:
        return load_classes(str(classes), count)
    if demo:
        return load_classes("demo", count)
    if isinstance(own, str):
        return load_classes(own, count)
    return classes_for(count) if own is None else coloured(own)


def convert(
    checkpoint: str | Path | None = None,
    *,
    to: str | Sequence[str] = "tflite",
    precision: str = "fp32",
    size: Size | None = None,
    head: str = "logits",
    output_size: str = "network",
    raw_input: bool = False,
    output: str | Path = DEFAULT_OUTPUT,
    model: str | Callable[..., nn.Module] | nn.Module | None = None,
    preprocessing: Preprocessing | str | Path | None = None,
    preprocessing_overrides: Mapping[str, Any] | None = None,
    classes: str | Path | None = None,
    architecture: str | None = None,
    variant: str | None = None,
    num_classes: int | None = None,
    options: Mapping[str, Any] | None = None,
    gates: GateLimits | None = None,
    calibration: str | Path | None = None,
    calibration_size: int = DEFAULT_CALIBRATION,
    calibration_labels: str | Path | None = None,
    recipe: Int8Recipe = INT8,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    image_count: int = DEFAULT_PICTURES,
    seed: int = 0,
    jobs: int | None = None,
    dry_run: bool = False,
    progress: Progress = silent,
    announce: Callable[[Checkpoint, Size], None] | None = None,
) -> ConvertResult:
    """Convert a network to files that were each loaded, run where they can be, and compared before they got their name.

    ``checkpoint``: a path, or None for the embedded demo network. ``model``: any other network: ``"package.module:
    factory"``, ``"path/file.py:factory"``, a factory or an `nn.Module`; its weights are the checkpoint's where one is
    given. ``to``: target names, or ``"all"``. ``size``: (H, W) pixels, the network's own where None. ``output_size``:
    ``"network"``, or ``"input"`` for logits resized to the picture. ``options``: what only one target has, by name
    (``{"opset": 18, "delegate": "vulkan"}``; `Target.options`). ``recipe``: how int8 is made; it seeks what ``gates``
    ask for, of mIoU on ``calibration_labels``, the calibration pictures' own. ``jobs``: worker processes for several
    targets, at most; None for as many as cores and memory allow. ``announce`` is told the checkpoint as soon as it is
    loaded. ``dry_run``: all checks and the rewriting, no file.

    Raises `UsageError` and its kinds for bad input, `MissingExtraError` for a package that is not installed. Of several
    targets one that fails is no exception: it stands in the result's ``failures``, and the others are made. A gate that
    is not met is none either: it stands in ``passed``, in the report, and the file is there to be looked at.
    """
    demo = checkpoint is None and model is None
    job = prepare(
        to=to,
        precision=precision,
        head=head,
        output_size=output_size,
        raw_input=raw_input,
        output=output,
        options=options or {},
        workers=jobs,
        gates=gates,
        calibration=calibration,
        calibration_size=calibration_size,
        calibration_labels=calibration_labels,
        recipe=recipe,
        images=images,
        labels=labels,
        image_count=image_count,
        seed=seed,
        demo=demo,
    )
    clock = Clock(progress)
    with nullcontext(job.output) if dry_run else outputs.folder(job.output):
        with clock.stage("Load the checkpoint"):
            network = open_network(
                checkpoint,
                architecture=architecture,
                variant=variant,
                num_classes=num_classes,
                model=model,
                size=size,
                preprocessing=preprocessing,
                overrides=preprocessing_overrides,
            )
            chosen_size = check_size(network, size or network.size)
            named = classes_of(network, classes, demo=demo)
        if announce is not None:
            announce(network, chosen_size)
        from mobileseg.sources import calibration_pictures, parity_pictures

        parity = parity_pictures(job, chosen_size, demo=demo)
        calibrating = replace(calibration_pictures(job, chosen_size), void=named.void)
        with clock.stage("Export"):
            program = exported(network, chosen_size, job)
        stem = "demo-enet" if demo else network.path.name.removesuffix(".tar").rsplit(".", 1)[0]
        subject = _Subject(network, chosen_size, named, program, parity, calibrating, stem)
        if dry_run:
            return _rehearsed(job, subject, clock)
        return _made(job, subject, clock)


def exported(network: Checkpoint, size: Size, job: Job) -> Exported:
    """The network with its preprocessing and head, traced at one size."""
    from mobileseg.converters.export import Deployed, export

    preprocessing = None if job.raw_input else network.preprocessing
    remedy = "Its forward() must not branch on values nor leave torch; if that depends on the size, try another --size."
    with blaming(f"Tracing this network at {size[0]}x{size[1]}", remedy, CheckpointError), quick_graphs():
        return export(Deployed(network.network, preprocessing, job.head, job.output_size), size)


def _rehearsed(job: Job, subject: _Subject, clock: Clock) -> ConvertResult:
    """Every rewriting done, no file written."""
    not_run = NotRun("dry run")
    artifacts = []
    for target in job.targets:
        timed = Clock(clock.progress, dict(clock.seconds))
        with timed.stage(f"Rewrite for {target.name}"):
            rewritten_for(target, job.precision, job.options[target.name], subject.program)
        artifact = Artifact(_final(job, target, subject), target.name, job.precision, (), ())
        artifacts.append(ConvertedArtifact(artifact, {"not_run": not_run.why}, None, not_run, timed.seconds))
    return ConvertResult(tuple(artifacts), _not_installed(job))


def _made(job: Job, subject: _Subject, clock: Clock) -> ConvertResult:
    """All files, each in a process of its own where there are several and room for them; and their reports."""
    from mobileseg.validation.parity import reference_of

    reference = reference_of(subject.network, job.output_size)
    with ExitStack() as partials:
        tasks = [_task(job, target, subject, partials) for target in job.targets]
        count = min(job.workers or len(tasks), workers.how_many(len(tasks), making_apart.MEMORY))
        if len(job.targets) + len(job.missing) == 1:
            results: Sequence[Made | Failure] = [make(tasks[0], subject.program, reference, clock.progress)]
        elif count == 1:
            results = [attempt(task, subject.program, reference, clock.progress) for task in tasks]
        else:
            results = _in_processes(job, tasks, subject, count, clock)
        own_precision = functools.cache(lambda: _own_precision(subject, job))
        artifacts, failures = [], list(_not_installed(job))
        for task, result in zip(tasks, results, strict=True):
            if isinstance(result, Failure):
                failures.append(FailedTarget(task.target, job.precision, *_reasons(result)))
            else:
                seconds = {**clock.seconds, **result.seconds}
                artifacts.append(_reported(job, subject, task, replace(result, seconds=seconds), own_precision))
    return ConvertResult(tuple(artifacts), tuple(failures))


def _in_processes(job: Job, tasks: Sequence[Task], subject: _Subject, count: int, clock: Clock) -> list[Made | Failure]:
    """The program is exported, and the checkpoint run on the pictures, once for all."""
    from mobileseg.validation.parity import record, reference_of

    with _workplace(job.output) as folder:
        with clock.stage("Run the checkpoint"), outputs.explained(folder):
            shared = making_apart.share(subject.program, folder)
            record(reference_of(subject.network, job.output_size), subject.parity.pictures(), shared.reference)
        return making_apart.make_all(tasks, shared, count, clock.progress)


@contextmanager
def _workplace(output: Path) -> Iterator[Path]:
    """A hidden folder on the output's disk, gone at the end."""
    with outputs.explained(output):
        folder = tempfile.TemporaryDirectory(prefix=".mobileseg-", dir=output)
    with folder as name:
        yield Path(name)


def _task(job: Job, target: Target, subject: _Subject, partials: ExitStack) -> Task:
    final = _final(job, target, subject)
    for suffix in target.companions:
        partials.enter_context(outputs.partial(final.with_suffix(suffix)))
    return Task(
        target=target.name,
        precision=job.precision,
        head=job.head,
        options=job.options[target.name],
        metadata=embedded_metadata(job, target, subject.network, subject.classes, subject.size),
        path=partials.enter_context(outputs.partial(final)),
        final=final,
        parity=subject.parity,
        calibration=subject.calibration,
        void=subject.classes.void,
        preprocessing=subject.network.preprocessing,
        gates=job.gates,
        recipe=job.recipe,
    )


def _final(job: Job, target: Target, subject: _Subject) -> Path:
    return job.output / target.file_name(subject.stem, job.precision, job.options[target.name])


def _reported(
    job: Job, subject: _Subject, task: Task, made: Made, own_precision: Callable[[], float | NotRun]
) -> ConvertedArtifact:
    """Hold the gates, write the report, give the files their names."""
    from mobileseg.validation.gates import all_passed, apply_gates
    from mobileseg.validation.report import build_report, write_report

    parity = made.parity
    gates: tuple[Gate, ...] = ()
    passed: bool | NotRun
    if isinstance(parity, NotRun):
        # A limit that was asked for and cannot be held here is not kept.
        passed = parity if job.gates == GateLimits() else False
    else:
        gates = apply_gates(parity, job.precision, job.gates)
        missed = any(g.name == "sqnr_db" and not g.passed for g in gates)
        if missed and job.head == "logits" and job.gates.min_sqnr_db is None:
            parity = replace(parity, reference_sqnr_db=own_precision())
            gates = apply_gates(parity, job.precision, job.gates)
        passed = all_passed(gates)
    report = build_report(
        checkpoint=subject.network,
        artifact=replace(made.artifact, path=task.path),
        rewrites=made.rewrites,
        quantization=_quantization(made, task),
        parity=parity,
        gates=gates,
        latency=NotRun("convert does not measure latency"),
    )
    final = task.final
    report["artifact"]["path"] = final.as_posix()
    report_path = final.with_name(f"{final.name}.report.json")
    with outputs.partial(report_path) as unfinished, outputs.explained(final):
        write_report(report, unfinished)
        outputs.settle(task.path, final)
        for companion in (s for s in registry.target(task.target).companions if task.path.with_suffix(s).exists()):
            outputs.settle(task.path.with_suffix(companion), final.with_suffix(companion))
        outputs.settle(unfinished, report_path)
    return ConvertedArtifact(made.artifact, report, report_path, passed, made.seconds)


def _quantization(made: Made, task: Task) -> QuantizationRecord | NotRun:
    from mobileseg.validation.report import QuantizationRecord

    if isinstance(made.quantized, NotRun):
        return made.quantized
    source = task.calibration
    recipe = registry.QUANTIZERS.get((task.target, task.precision))
    calibrated = recipe is not None and recipe.calibrated
    pictures = (source.name, source.count) if calibrated else ("no pictures are needed", 0)
    return QuantizationRecord(made.quantized.recipe, *pictures, made.quantized.kept_float, made.quantized.int8)


def _own_precision(subject: _Subject, job: Job) -> float | NotRun:
    from mobileseg.validation.parity import reference_precision

    return reference_precision(subject.network, subject.parity.pictures(), job.output_size)


def _not_installed(job: Job) -> tuple[FailedTarget, ...]:
    return tuple(
        FailedTarget(name, job.precision, type(error).__name__, str(error), error.exit_code)
        for name, error in job.missing.items()
    )


def _reasons(failure: Failure) -> tuple[str, str, int, str]:
    return failure.kind, failure.message, failure.exit_code, failure.traceback
