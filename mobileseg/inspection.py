"""What a file is: a checkpoint or an artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mobileseg.checkpoint import load_checkpoint
from mobileseg.errors import UsageError
from mobileseg.types import Notice, Preprocessing, Size
from mobileseg.validation.inspection import ArtifactSummary, inspect_artifact
from mobileseg.validation.runners import RUNNERS

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class CheckpointSummary:
    """One file of trained weights. ``size`` is the size it was trained at; others must be multiples of
    ``size_multiple`` and at least ``min_size``."""

    path: Path
    architecture: str
    variant: str
    hyperparameters: Mapping[str, Any]
    num_classes: int
    parameters: int
    bytes: int
    sha256: str
    size: Size
    size_multiple: int
    min_size: int
    preprocessing: Preprocessing
    notices: tuple[Notice, ...]
    kind: Literal["checkpoint"] = "checkpoint"


def inspect(
    path: str | Path,
    *,
    architecture: str | None = None,
    variant: str | None = None,
    num_classes: int | None = None,
    model: str | Callable[..., nn.Module] | nn.Module | None = None,
    time_runs: int | None = None,
) -> CheckpointSummary | ArtifactSummary:
    """What an artifact (by its suffix, one of `RUNNERS`) or else a checkpoint is; ``model``: as `mobileseg.convert`.

    ``time_runs``: over how many runs an artifact's operators are timed on this machine, on one thread; None for not at
    all. Raises what `load_checkpoint` and `inspect_artifact` raise, `UsageError` for a checkpoint to be timed.
    """
    path = Path(path)
    if path.suffix in RUNNERS:
        return inspect_artifact(path, time_runs)
    if time_runs is not None:
        raise UsageError(
            f"'{path}' is timed as what a phone runs, and not as a checkpoint: 'mobileseg convert {path} --to tflite' "
            "makes a file of it, which --time takes."
        )
    loaded = load_checkpoint(path, architecture=architecture, variant=variant, num_classes=num_classes, model=model)
    return CheckpointSummary(
        path=loaded.path,
        architecture=loaded.architecture,
        variant=loaded.variant,
        hyperparameters=loaded.hyperparameters,
        num_classes=loaded.num_classes,
        parameters=loaded.parameters,
        bytes=loaded.path.stat().st_size,
        sha256=loaded.sha256,
        size=loaded.size,
        size_multiple=loaded.size_multiple,
        min_size=loaded.min_size,
        preprocessing=loaded.preprocessing,
        notices=loaded.notices,
    )
