"""What is inside an artifact: its operators, what they cost, which of them a delegate takes, its tensors, its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mobileseg.types import NotRun, TensorSpec
from mobileseg.validation.graphs import Graph, read_graph
from mobileseg.validation.graphs.estimate import Costs, estimated
from mobileseg.validation.measured import NOT_ASKED, Measured, measure
from mobileseg.validation.memory import held_bytes
from mobileseg.validation.report import size_and_digest
from mobileseg.validation.runners import open_artifact
from mobileseg.validation.runners.trial import tflite_tried


@dataclass(frozen=True)
class ArtifactSummary:
    """One file for phones. ``costs``: of its operators, estimated; ``held_bytes``: what its runtime holds after a run,
    measured (`mobileseg.validation.memory`); ``measured``: its operators' times, where they were asked for.
    ``notes``: what had to be assumed about it."""

    path: Path
    target: str
    precision: str
    runtime: str
    bytes: int
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    graph: Graph
    costs: Costs
    held_bytes: int | NotRun
    measured: Measured | NotRun
    metadata: Mapping[str, Any]
    notes: tuple[str, ...]
    kind: Literal["artifact"] = "artifact"


def inspect_artifact(path: Path, time_runs: int | None = None) -> ArtifactSummary:
    """Loads the file in its runtime, reads its graph, and runs it once in a process of its own. ``time_runs``: over how
    many runs its operators are timed; None for not at all.

    Raises `UsageError` for a file that does not load, `MissingExtraError` where what reads it is not installed,
    `OptionError` for no runs.
    """
    tflite_tried(path)
    runner = open_artifact(path)
    size, digest = size_and_digest(path)
    graph = read_graph(path)
    return ArtifactSummary(
        path=path,
        target=runner.artifact.target,
        precision=runner.artifact.precision,
        runtime=runner.runtime,
        bytes=size,
        sha256=digest,
        inputs=runner.inputs,
        outputs=runner.outputs,
        graph=graph,
        costs=estimated(graph),
        held_bytes=held_bytes(runner),
        measured=NOT_ASKED if time_runs is None else measure(path, graph, time_runs),
        metadata=runner.metadata,
        notes=(*runner.notes, *graph.notes),
    )
