"""One target's file made: rewrite -> lower (-> quantize) -> load -> run -> compare.

Everything that this needs is in a `Task`, which can be sent to another process; what comes of it is in a `Made`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from traceback import format_exc
from typing import TYPE_CHECKING, Any

from mobileseg import outputs, registry
from mobileseg.errors import MobilesegError, RewriteError, UnavailableError, UsageError
from mobileseg.probing import probed
from mobileseg.quick_graphs import quick_graphs
from mobileseg.types import (
    INT8,
    Artifact,
    Equalization,
    GateLimits,
    Head,
    Int8Recipe,
    NotRun,
    Preprocessing,
    Quantized,
    Recipe,
    Rewrite,
)

if TYPE_CHECKING:
    from mobileseg.converters.export import Exported, RewrittenProgram
    from mobileseg.converters.target import Lowering, Target
    from mobileseg.quantization.calibration import About
    from mobileseg.quantization.program import Sort
    from mobileseg.quantization.recovery.equalize import Equalized
    from mobileseg.sources import PictureSource
    from mobileseg.validation.parity import ParityResult, Reference

FLOAT32_SHARES = (0.25, 0.5, 0.75)
"""Of the layers of an fp16 file, from the picture on, those that stay float32 where it misses its gates without: the
first that suffices. What the first layers round away grows through all the others, so that few of them help most."""

SECOND = 16
"""Calibration pictures up to which int8 is planned a second time, to measure what equalizing channels does."""

Count = Callable[[str, int, int], None]
"""Called with what is counted, how many of them are done, and how many there are (0: not known)."""

Progress = Callable[[str], AbstractContextManager[Count | None]]
"""Called with a stage's name; the stage runs inside what it returns, and counts with what that gives."""


def silent(stage: str) -> AbstractContextManager[Count | None]:
    """No progress."""
    return nullcontext()


@dataclass
class Clock:
    """Seconds per stage."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[Count | None]:
        start = time.perf_counter()
        with self.progress(name) as count:
            yield count
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Task:
    """One file to be made. ``path``: where, under a temporary name; ``final``: the name that errors call it by.

    ``options``: those of this target alone. ``metadata``: to be embedded. ``void``: the class that is none.
    ``preprocessing``: for a file of raw input. ``gates``: the limits that were asked for.
    """

    target: str
    precision: str
    head: Head
    options: Mapping[str, Any]
    metadata: Mapping[str, Any]
    path: Path
    final: Path
    parity: PictureSource
    calibration: PictureSource
    void: int | None
    preprocessing: Preprocessing
    gates: GateLimits
    recipe: Int8Recipe = INT8


@dataclass(frozen=True)
class Made:
    """A file that was loaded, and compared where it can be run here."""

    artifact: Artifact
    rewrites: tuple[Rewrite, ...]
    quantized: Quantized | NotRun
    parity: ParityResult | NotRun
    seconds: Mapping[str, float]


def make(task: Task, exported: Exported, reference: Reference, progress: Progress) -> Made:
    """The file of a task at ``task.path``, and what was found of it.

    Raises `RewriteError` for a network that the target cannot run, `OutputError` where it cannot be written,
    `MissingExtraError` without the target's packages.
    """
    clock = Clock(progress)
    target: Target = registry.target(task.target)
    recipe = registry.QUANTIZERS.get((task.target, task.precision))
    original, equalization = exported, None
    if recipe is not None and recipe.planned and task.recipe.equalized:
        from mobileseg.quantization.program import equalize_channels

        with clock.stage("Equalize channels"):
            equalization = equalize_channels(exported.program, task.calibration.pictures, task.recipe)
            exported = replace(exported, program=equalization.program)
    with clock.stage(f"Rewrite for {target.name}"):
        rewritten = rewritten_for(target, task.precision, task.options, exported)
    made = _lowered(task, target, rewritten, reference, clock, 0.0)
    if equalization is not None:
        made = _with_effect(made, task, original, equalization, clock)
    narrow = made.parity
    if task.precision == "fp16" and target.widens and not isinstance(narrow, NotRun):
        for share in FLOAT32_SHARES:
            if _keeps_its_gates(made, task):
                break
            made = _lowered(task, target, rewritten, reference, clock, share)
            words = (
                f"float16, the first {share:.0%} of the layers float32: "
                f"with all in float16 {narrow.agreement.pixels:.4%} of pixels agreed"
            )
            made = replace(made, quantized=Quantized(words))
    return made


def _with_effect(made: Made, task: Task, original: Exported, equalized: Equalized, clock: Clock) -> Made:
    """What was made, with what equalizing channels did to the plan: ``original`` is the program without."""
    if isinstance(made.quantized, NotRun) or made.quantized.int8 is None:
        return made
    without: float | NotRun = NotRun(f"it takes a second calibration, which more than {SECOND} pictures do not get")
    if not equalized.scaled:
        without = NotRun("no channel was scaled")
    elif task.calibration.count <= SECOND:
        with clock.stage("Measure what equalizing does") as count:
            without = _int8_throughout(task, original, made.quantized.int8.ranges, count)
    effect = Equalization(equalized.scaled, equalized.gain_db, without)
    return replace(made, quantized=replace(made.quantized, int8=replace(made.quantized.int8, equalization=effect)))


def _int8_throughout(task: Task, exported: Exported, ranges: str, count: Count | None) -> float:
    """The share of pixels that a program with nothing in float keeps equal on the probes, by one method of ranges."""
    from mobileseg.quantization.program import int8_agreement

    rewritten = rewritten_for(registry.target(task.target), task.precision, task.options, exported)
    recipe = replace(task.recipe, ranges=ranges)
    sort = sorting(registry.QUANTIZERS[task.target, task.precision])
    return int8_agreement(rewritten.module, task.calibration.pictures, recipe, sort, count, about(task.calibration))


def sorting(recipe: Recipe) -> Sort:
    """Which values a target rounds."""
    from mobileseg.quantization.program import same

    return same if recipe.values is None else registry.function(recipe.values)


def _lowered(
    task: Task, target: Target, rewritten: RewrittenProgram, reference: Reference, clock: Clock, float32_share: float
) -> Made:
    from mobileseg.converters.target import Lowering

    lowering = Lowering(task.precision, task.head, task.metadata, task.options, float32_share)
    with outputs.explained(task.final):
        quantized = write(target, rewritten, lowering, task.calibration, task.path, task.recipe, clock.stage)
    with clock.stage(f"Run and compare {target.name}"):
        artifact, parity = _compared(task, reference)
        if not isinstance(parity, NotRun):
            quantized = probed(quantized, rewritten, task)
    return Made(artifact, rewritten.rewrites, quantized, parity, clock.seconds)


def write(
    target: Target,
    rewritten: RewrittenProgram,
    lowering: Lowering,
    calibration: PictureSource,
    path: Path,
    int8: Int8Recipe = INT8,
    stage: Progress = silent,
) -> Quantized | NotRun:
    """Write the file of a program that is in the target's forms: plan, lower, quantize, as the precision wants it.

    ``lowering.precision`` may be any of the target's; ``calibration`` is looked at where it needs pictures.
    """
    from mobileseg.quantization.program import plan_program

    precision, planned = lowering.precision, None
    recipe = registry.QUANTIZERS.get((target.name, precision))
    if recipe is not None and recipe.planned:
        with stage(f"Calibrate {precision}") as count:
            sort, facts = sorting(recipe), about(calibration)
            planned = plan_program(rewritten.module, calibration.pictures, int8, sort, count, facts)
        if recipe.function is None:
            rewritten = replace(rewritten, module=planned.written())
    with stage(f"Lower to {target.name}"), quick_graphs():
        target.lower(rewritten, replace(lowering, precision=recipe.base if recipe else precision), path)
    if recipe is not None and recipe.function is not None:
        with stage(f"Quantize {target.name}"):
            given = calibration.pictures if recipe.observed else planned
            found: Quantized = registry.function(recipe.function)(path, precision, given, lowering.options)
            return found
    if planned is not None:
        return Quantized(planned.words, planned.kept_float, planned.findings)
    if recipe is not None:
        return Quantized(recipe.words)
    return NotRun(f"{precision} is not quantized")


def about(source: PictureSource) -> About:
    from mobileseg.quantization.calibration import About

    return About(source.count, source.names, source.labels, source.void)


def _keeps_its_gates(made: Made, task: Task) -> bool:
    from mobileseg.validation.gates import all_passed, apply_gates

    return isinstance(made.parity, NotRun) or all_passed(apply_gates(made.parity, task.precision, task.gates))


def rewritten_for(target: Target, precision: str, options: Mapping[str, Any], exported: Exported) -> RewrittenProgram:
    """The program in the target's forms. Raises `RewriteError` where an operator is left that it cannot run."""
    from mobileseg.converters.export import refuse_what_is_left, rewrite

    rewritten = rewrite(exported, target.backend(options), precision)
    refuse_what_is_left(rewritten, target.forbidden)
    return rewritten


def _compared(task: Task, reference: Reference) -> tuple[Artifact, ParityResult | NotRun]:
    from mobileseg.validation.parity import compare
    from mobileseg.validation.runners import open_artifact

    try:
        runner = open_artifact(task.path)
    except UsageError as error:
        raise RewriteError(
            f"What was written for this network does not load, for want of an operator, most likely: {error} "
            "Another target may take the network."
        ) from error
    artifact = replace(runner.artifact, path=task.final)
    if runner.cannot_run:
        return artifact, NotRun(runner.cannot_run)
    parity = task.parity
    try:
        result = compare(
            reference,
            runner,
            parity.pictures(),
            parity.labels() if parity.labels is not None else None,
            void=task.void,
            preprocessing=task.preprocessing,
        )
    except UnavailableError as error:  # a form of an operator that only running it tells the runtime lacks
        return artifact, NotRun(str(error))
    return artifact, replace(result, notes=(*result.notes, f"compared on {parity.name}"))


@dataclass(frozen=True)
class Failure:
    """Why a task came to nothing. ``kind``: the exception's name; ``traceback``: of a fault of ours, else empty."""

    kind: str
    message: str
    exit_code: int
    traceback: str


def attempt(task: Task, exported: Exported, reference: Reference, progress: Progress) -> Made | Failure:
    """`make`, whose errors do not concern other tasks."""
    try:
        return make(task, exported, reference, progress)
    except MobilesegError as error:
        fault = error.exit_code == MobilesegError.exit_code
        return Failure(type(error).__name__, str(error), error.exit_code, format_exc() if fault else "")
    # The boundary between one target and the others: what arrives here is a defect of ours or of a library, of
    # whatever kind, and it is told beside the files of the others.
    except Exception as error:  # noqa: BLE001
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        message = f"mobileseg failed where it should not have ({cause}). Please report this as a bug."
        return Failure(type(error).__name__, message, MobilesegError.exit_code, format_exc())
