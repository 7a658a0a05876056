"""What is inside an artifact: its operators, which of them a delegate takes, its tensors, its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mobileseg.types import TensorSpec
from mobileseg.validation.graphs import Graph, read_graph
from mobileseg.validation.report import size_and_digest
from mobileseg.validation.runners import open_artifact
from mobileseg.validation.runners.trial import tflite_tried


@dataclass(frozen=True)
class ArtifactSummary:
    """One file for phones. ``notes``: what had to be assumed about it."""

    path: Path
    target: str
    precision: str
    runtime: str
    bytes: int
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    graph: Graph
    metadata: Mapping[str, Any]
    notes: tuple[str, ...]
    kind: Literal["artifact"] = "artifact"


def inspect_artifact(path: Path) -> ArtifactSummary:
    """Loads the file in its runtime and reads its graph.

    Raises `UsageError` for a file that does not load, `MissingExtraError` where what reads it is not installed.
    """
    tflite_tried(path)
    runner = open_artifact(path)
    size, digest = size_and_digest(path)
    return ArtifactSummary(
        path=path,
        target=runner.artifact.target,
        precision=runner.artifact.precision,
        runtime=runner.runtime,
        bytes=size,
        sha256=digest,
        inputs=runner.inputs,
        outputs=runner.outputs,
        graph=read_graph(path),
        metadata=runner.metadata,
        notes=runner.notes,
    )
