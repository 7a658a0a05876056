"""What the commands answer with ``--json``: one object each."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg.types import NotRun

if TYPE_CHECKING:
    from mobileseg.diagnosis import Diagnosis
    from mobileseg.listing import Listing
    from mobileseg.types import ConvertResult


def emit(value: Any) -> None:
    """Print dataclasses, paths and plain data as one JSON object on stdout."""
    sys.stdout.write(json.dumps(plain(value), indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """``value`` in what JSON knows; `NotRun` becomes ``{"not_run": why}``."""
    if isinstance(value, NotRun):
        return {"not_run": value.why}
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.as_posix() if isinstance(value, Path) else value


def converted(result: ConvertResult) -> dict[str, Any]:
    artifacts = [
        {
            "path": f.artifact.path,
            "target": f.artifact.target,
            "precision": f.artifact.precision,
            "report": f.report_path,
            "passed": plain(f.passed),
        }
        for f in result.artifacts
    ]
    failures = [
        {
            "target": f.target,
            "precision": f.precision,
            "error": {"type": f.error, "message": f.message, "exit_code": f.exit_code},
        }
        for f in result.failures
    ]
    return {"artifacts": artifacts, "failures": failures, "passed": plain(result.passed)}


def diagnosed(diagnosis: Diagnosis) -> dict[str, Any]:
    network = diagnosis.checkpoint
    return {
        "backends": [{**asdict(b), "works": b.works} for b in diagnosis.backends],
        "devices": diagnosis.devices,
        "checkpoint": None
        if network is None
        else {
            "path": network.path,
            "architecture": network.architecture,
            "variant": network.variant,
            "num_classes": network.num_classes,
            "parameters": network.parameters,
            "preprocessing": network.preprocessing,
            "size": diagnosis.size,
            "notices": network.notices,
        },
        "targets": [
            {
                "target": p.target,
                "precision": p.precision,
                "convertible": p.refusal is None,
                "refusal": p.refusal,
                "rewrites": p.rewrites,
            }
            for p in diagnosis.prospects
        ],
        "usable": diagnosis.usable,
        "convertible": diagnosis.convertible,
    }


def listed(listing: Listing) -> dict[str, Any]:
    return {listing.kind: [dict(zip(listing.columns, row, strict=True)) for row in listing.rows]}
