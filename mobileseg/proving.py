"""A finished file held against the checkpoint, or another file, that it should compute the same as."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mobileseg import registry, workers
from mobileseg.errors import GateError, OptionError, SizeError, UnavailableError, UsageError, unknown_option
from mobileseg.proof_orders import MEMORY, WORTH_A_WORKER, Sides, by_workers, found_on, orders_for
from mobileseg.strips import Worst
from mobileseg.types import (
    OUTPUT_NAMES,
    Checkpoint,
    Classes,
    Gate,
    GateLimits,
    Head,
    NotRun,
    OutputSize,
    Placement,
    Preprocessing,
    Size,
)

if TYPE_CHECKING:
    from torch import nn

    from mobileseg.mobile_assets.overlay import Palette
    from mobileseg.validation.parity import ParityResult, Reference
    from mobileseg.validation.runners import Runner

DEMO = "demo"
"""What ``against`` names the embedded demo network by."""

PICTURES_A_TASK = 8
"""Of a cluster: few enough that a lost worker costs little, and that none is idle for long at the end."""

NOT_MADE_HERE = NotRun("there is no report of its making beside the file")

_LAYOUTS = ("NCHW", "NHWC", "NHW")


@dataclass(frozen=True)
class Validation:
    """``report``: keeps the report's schema. ``passed``: whether every gate was met. ``worst``: the pictures of least
    agreement; ``palette``: their classes' colours."""

    report: Mapping[str, Any]
    passed: bool
    worst: Worst
    palette: Palette

    @property
    def exit_code(self) -> int:
        return 0 if self.passed else GateError.exit_code


@dataclass(frozen=True)
class FileDescription:
    """What a file that mobileseg did not make does not say of itself; None for what is inferred or known.

    ``input_range``: the values of black and white. ``raw_input``: it takes what the network was fed, not pictures.
    """

    input_layout: str | None = None
    input_range: tuple[float, float] | None = None
    output_layout: str | None = None
    head: str | None = None
    raw_input: bool | None = None
    precision: str | None = None


@dataclass(frozen=True)
class _Against:
    """The other side. ``checkpoint``: None where it is a file."""

    reference: Reference
    checkpoint: Checkpoint | None
    classes: Classes | None
    name: str


@dataclass(frozen=True)
class _Opening:
    """``network``: options of `pipeline.open_network`."""

    artifact: Path
    description: FileDescription
    placement: Placement
    size: Size | None
    against: str | Path | None
    network: Mapping[str, Any]

    def both(self) -> tuple[Runner, _Against]:
        runner = _runner(self.artifact, self.description, self.placement)
        return runner, _other_side(self.against, runner, _size(runner, self.size), self.network)

    def open(self) -> Sides:
        return self.sides(*self.both())

    def sides(self, runner: Runner, other: _Against) -> Sides:
        preprocessing = other.checkpoint.preprocessing if other.checkpoint else None
        return Sides(runner, other.reference, preprocessing, self.placement.threads)


def _parts(jobs: int | None, pictures: int, opening: _Opening) -> int:
    """Workers that are worth their start and have room. A network that was handed over as an object stays here."""
    try:
        pickle.dumps(opening)
    except (pickle.PicklingError, AttributeError, TypeError):
        return 1
    if callable(opening.network["model"]):
        return 1
    return min(jobs, pictures) if jobs is not None else workers.how_many(pictures // WORTH_A_WORKER or 1, MEMORY)


def validate(
    artifact: str | Path,
    *,
    against: str | Path | None = None,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    image_count: int | None = None,
    random: int | None = None,
    seed: int = 0,
    description: FileDescription | None = None,
    model: str | Callable[..., nn.Module] | nn.Module | None = None,
    architecture: str | None = None,
    variant: str | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | str | Path | None = None,
    preprocessing_overrides: Mapping[str, Any] | None = None,
    classes: str | Path | None = None,
    size: Size | None = None,
    gates: GateLimits | None = None,
    baseline: str | Path | None = None,
    bisect: bool = False,
    device: str = registry.HOST,
    threads: int = 1,
    compute_units: str = "all",
    jobs: int | None = None,
    cluster: str | None = None,
    progress: Callable[[Path, int, int | None], None] = lambda path, done, total: None,
) -> Validation:
    """Run both sides on the same pictures, one at a time, and hold the gates.

    ``artifact``: a ``.tflite``, ``.onnx``, ``.pte`` or ``.mlpackage``, of this tool or not. ``against``: a checkpoint,
    another such file, or ``"demo"``; with a ``model`` it may be None. ``images``: a folder, all of whose pictures are
    taken unless ``image_count`` says fewer; ``random``: so many pictures of noise instead; without either demo scenes.
    ``size``: (H, W) pixels for a file that takes any. ``baseline``: a report; a figure that became worse than its
    fails. ``bisect``: on the picture of least agreement, hold what each operator gives against torch's, too; one that
    is wrong fails. ``device``: what runs the artifact; the other side is this machine's CPU's. ``compute_units``: of
    Core ML on macOS. ``jobs``: processes that share the pictures, at most; None for as many as are worth it and have
    room. ``cluster``: address of a Dask scheduler, whose workers share them instead, and find files and pictures under
    the same paths; the result is the same to the last bit. ``progress`` is told the file, and how many pictures are
    done of how many.

    Raises `UsageError` and its kinds for bad input, for a file of another network or size; `UnavailableError` for a
    file that this machine cannot run, or a cluster that is not there.
    """
    from mobileseg.sources import proof_pictures
    from mobileseg.validation.baseline import read_baseline, regressions
    from mobileseg.validation.runners.trial import tflite_tried

    if against is None and model is None:
        raise UsageError("There is nothing to hold the file against. Name a checkpoint or a file: --against.")
    if jobs is not None and jobs < 1:
        raise OptionError(f"--jobs must be at least 1; got {jobs}.")
    if bisect and against is not None and _is_file(against):
        raise UsageError(
            "--bisect compares with torch's graph, which a finished file has not: hold the file against the checkpoint."
        )
    before = None if baseline is None else read_baseline(Path(baseline))
    network = {
        "model": model,
        "architecture": architecture,
        "variant": variant,
        "num_classes": num_classes,
        "preprocessing": preprocessing,
        "overrides": preprocessing_overrides,
    }
    placement = Placement(device=device, threads=threads, compute_units=compute_units)
    opening = _Opening(Path(artifact), description or FileDescription(), placement, size, against, network)
    tflite_tried(artifact, against)
    runner, other = opening.both()
    source = proof_pictures(
        _size(runner, size),
        images=None if images is None else Path(images),
        labels=None if labels is None else Path(labels),
        count=image_count,
        noise=random,
        seed=seed,
        demo=against == DEMO,
    )
    named = _classes(classes, other, runner)

    def done(pictures: int) -> None:
        progress(Path(artifact), pictures, source.count)

    parts, sides = _parts(jobs, source.count, opening), opening.sides(runner, other)
    if cluster is not None:
        from mobileseg.proof_cluster import by_cluster

        count = -(-source.count // PICTURES_A_TASK)
        found = by_cluster(orders_for(opening, source, named.void, count), sides, cluster, done)
    elif parts > 1:
        found = by_workers(orders_for(opening, source, named.void, parts), done)
    else:
        counted = itertools.count(1)
        found = found_on(sides, source, range(source.count), named.void, lambda: done(next(counted)))
    result = found.tally.result(runner)
    result = replace(result, notes=(*result.notes, f"compared on {source.name}", f"held against {other.name}"))
    report, held = _report(result, runner, other, named, gates or GateLimits(), source.pictures)
    more: tuple[Gate, ...] = () if before is None else regressions(report, before)
    if bisect:
        more += (_looked_into(report, runner, other, found.worst, _size(runner, size)),)
    held = held and all(gate.passed for gate in more)
    report["parity"]["gates"] += [_as_json(gate) for gate in more]
    report["parity"]["passed"] = held
    return Validation(report, held, found.worst, named.palette)


def _runner(path: Path, told: FileDescription, placement: Placement) -> Runner:
    from mobileseg.validation.gates import DEFAULTS
    from mobileseg.validation.runners import open_artifact
    from mobileseg.validation.runners.base import described

    _check(told)
    runner = open_artifact(path, placement)
    if runner.cannot_run:
        raise UnavailableError(f"'{path}' cannot be run here: {runner.cannot_run}")
    precision = told.precision
    if precision is None and runner.artifact.precision not in DEFAULTS:
        runner = replace(runner, notes=(*runner.notes, "Its precision is not known; the gates are those of fp32."))
        precision = "fp32"
    head: Head | None = told.head  # type: ignore[assignment]  # checked above
    return described(
        runner,
        input_layout=told.input_layout,
        input_range=told.input_range,
        output_layout=told.output_layout,
        head=head,
        raw_input=told.raw_input,
        precision=precision,
    )


def _check(told: FileDescription) -> None:
    words = {
        "layout": (told.input_layout, _LAYOUTS),
        "output layout": (told.output_layout, _LAYOUTS),
        "head": (told.head, tuple(OUTPUT_NAMES)),
        "precision": (told.precision, tuple(registry.PRECISIONS)),
    }
    for kind, (word, known) in words.items():
        if word is not None and word not in known:
            raise unknown_option(kind, word, known)
    if told.input_range is not None and told.input_range[0] >= told.input_range[1]:
        low, high = told.input_range
        raise OptionError(f"--input-range takes the values of black and white, in this order; got {low:g},{high:g}.")


def _size(runner: Runner, asked: Size | None) -> Size:
    from mobileseg.validation.runners.base import DYNAMIC

    if DYNAMIC not in runner.size:
        if asked not in (None, runner.size):
            raise SizeError(
                f"'{runner.artifact.path}' takes {runner.size[0]}x{runner.size[1]} alone; leave out --size."
            )
        return runner.size
    if asked is None:
        raise SizeError(f"'{runner.artifact.path}' takes pictures of any size; say which: --size HxW.")
    return asked


def _other_side(against: str | Path | None, runner: Runner, size: Size, options: Mapping[str, Any]) -> _Against:
    """``options``: of `pipeline.open_network`."""
    from mobileseg.jobs import check_size
    from mobileseg.mobile_assets.labels import load_classes
    from mobileseg.pipeline import classes_of, open_network
    from mobileseg.validation.parity import reference_of, reference_of_file
    from mobileseg.validation.runners import open_artifact

    if against is not None and _is_file(against):
        other = open_artifact(Path(against))
        if other.head != runner.head and other.head != "logits":
            raise UsageError(
                f"'{against}' returns {other.head}, '{runner.artifact.path}' {runner.head}: their values cannot be "
                "compared. Hold it against a file of the same head, or of logits, or against the checkpoint."
            )
        if other.raw_input:
            raise UsageError(f"'{against}' takes the network's own input, not pictures. Name its checkpoint instead.")
        return _Against(reference_of_file(other), None, None, f"{against} ({other.runtime})")
    demo = against == DEMO
    network = open_network(None if demo else against, size=size, **options)
    try:
        check_size(network, size)
    except SizeError as error:
        raise SizeError(f"'{runner.artifact.path}' is not of this checkpoint: {error}") from error
    name = "the demo network" if demo else f"{network.path} (sha256 {network.sha256[:12]})"
    named = load_classes("demo", network.num_classes) if demo else classes_of(network, None, demo=False)
    return _Against(reference_of(network, _output_size(runner, size)), network, named, name)


def _is_file(against: str | Path) -> bool:
    from mobileseg.validation.runners import RUNNERS

    return Path(against).suffix in RUNNERS


def _output_size(runner: Runner, size: Size) -> OutputSize:
    """What the file says; of one that does not: resized where its output has the picture's size. (Of a network that
    gives that size anyway, resizing changes nothing.)"""
    declared = runner.metadata.get("output_size")
    if declared in get_args(OutputSize):
        return "input" if declared == "input" else "network"
    shape, layout = runner.outputs[0].shape, runner.outputs[0].layout
    found = shape[1:3] if layout in ("NHWC", "NHW") else shape[2:4]
    return "input" if tuple(found) == tuple(size) else "network"


def _classes(asked: str | Path | None, other: _Against, runner: Runner) -> Classes:
    """Names and colours: those asked for, else the file's own, the checkpoint's, or generic ones."""
    from mobileseg.mobile_assets.labels import generic, load_classes

    count = other.checkpoint.num_classes if other.checkpoint else _channels(runner)
    if asked is not None:
        return load_classes(str(asked), count)
    own = runner.metadata.get("classes") or {}
    if len(own.get("names", ())) == len(own.get("palette", ())) == count:
        palette = tuple((red, green, blue) for red, green, blue in own["palette"])
        return Classes(str(own.get("dataset", "file")), tuple(own["names"]), palette, own.get("void"))
    return other.classes or generic(count)


def _channels(runner: Runner) -> int:
    spec = runner.outputs[0]
    return 256 if runner.head == "argmax" else spec.shape[3 if spec.layout == "NHWC" else 1]


def _looked_into(report: dict[str, Any], runner: Runner, other: _Against, worst: Worst, size: Size) -> Gate:
    """Put what each operator gives into the report; the gate that none is wrong."""
    from mobileseg.bisecting import bisect

    if other.checkpoint is None:
        raise UsageError("--bisect needs the checkpoint: --against.")
    _, number, picture = worst.kept[0]
    found = bisect(runner, other.checkpoint, picture.picture, number + 1, _output_size(runner, size))
    report["operators"] = found.record
    return Gate("operators", 0, found.faults, found.faults == 0)


def _as_json(gate: Gate) -> dict[str, Any]:
    value = {"not_run": "it was not measured this time"} if gate.value is None else gate.value
    return {"name": gate.name, "limit": gate.limit, "value": value, "passed": gate.passed}


def _report(
    result: ParityResult,
    runner: Runner,
    other: _Against,
    named: Classes,
    limits: GateLimits,
    pictures: Callable[[], Any],
) -> tuple[dict[str, Any], bool]:
    from mobileseg.validation.gates import all_passed, apply_gates
    from mobileseg.validation.parity import reference_precision
    from mobileseg.validation.report import build_report, made_with

    precision = runner.artifact.precision
    gates = apply_gates(result, precision, limits)
    missed = any(gate.name == "sqnr_db" and not gate.passed for gate in gates)
    if missed and other.checkpoint is not None and limits.min_sqnr_db is None and runner.head == "logits":
        own = reference_precision(other.checkpoint, pictures(), _output_size(runner, runner.size))
        result = replace(result, reference_sqnr_db=own)
        gates = apply_gates(result, precision, limits)
    artifact = runner.artifact
    artifact = replace(artifact, metadata={**artifact.metadata, "classes": {"names": list(named.names)}})
    report = build_report(
        checkpoint=other.checkpoint or NotRun(f"held against {other.name}"),
        artifact=artifact,
        rewrites=NOT_MADE_HERE,
        quantization=NOT_MADE_HERE,
        parity=result,
        gates=gates,
        latency=NotRun("validate does not measure latency"),
    )
    return {**report, **made_with(runner.artifact.path, report["artifact"]["sha256"])}, all_passed(gates)
