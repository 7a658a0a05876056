"""The JSON object that every artifact carries inside: what it was made of, and how to feed and read it."""

from __future__ import annotations

from dataclasses import asdict
from importlib import metadata as distributions
from typing import TYPE_CHECKING, Any

from mobileseg import __version__
from mobileseg.types import OUTPUT_NAMES, Checkpoint, Classes, Size

if TYPE_CHECKING:
    from mobileseg.converters.target import Target
    from mobileseg.jobs import Job


def embedded_metadata(job: Job, target: Target, checkpoint: Checkpoint, classes: Classes, size: Size) -> dict[str, Any]:
    """The JSON object that goes into the file: no time, no path, so that equal inputs give equal bytes."""
    installed = {m: _version(m) for m in ("torch", *target.modules)}
    return {
        "tool": "mobileseg",
        "version": __version__,
        "target": target.name,
        "precision": job.precision,
        "architecture": checkpoint.architecture,
        "variant": checkpoint.variant,
        "checkpoint_sha256": checkpoint.sha256,
        "classes": {
            "dataset": classes.dataset,
            "names": list(classes.names),
            "palette": [list(colour) for colour in classes.palette],
            "void": classes.void,
        },
        "preprocessing": asdict(checkpoint.preprocessing),
        "head": job.head,
        "output_size": job.output_size,
        "options": dict(job.options[target.name]),
        "raw_input": job.raw_input,
        "input": {
            "name": "picture",
            "layout": target.input_layout,
            "dtype": job.options[target.name].get("input_dtype", "float32"),
            "size": list(size),
            "range": None if job.raw_input else [0, 255],
        },
        "output": {"name": OUTPUT_NAMES[job.head], "layout": "NHW" if job.head == "argmax" else target.input_layout},
        "packages": {name: version for name, version in installed.items() if version is not None},
    }


def _version(module: str) -> str | None:
    try:
        return distributions.version(module.replace("_", "-"))
    except distributions.PackageNotFoundError:
        return None
