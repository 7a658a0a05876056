"""A new report held against a committed one: what became worse, beyond what noise explains."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobileseg.errors import UsageError
from mobileseg.types import Gate


@dataclass(frozen=True)
class _Figure:
    """``worse``: the limit that a value of the baseline sets; ``upper``: the limit is the largest value allowed."""

    name: str
    value: Callable[[Mapping[str, Any]], Any]
    worse: Callable[[float], float]
    upper: bool = False


_FIGURES = (
    _Figure("baseline_pixel_agreement", lambda report: report["parity"]["pixel_agreement"], lambda x: x - 0.0005),
    _Figure("baseline_sqnr_db", lambda report: report["parity"]["sqnr_db"], lambda x: x - 3.0),
    _Figure("baseline_miou", lambda report: report["parity"]["miou_artifact"], lambda x: x - 0.001),
    _Figure("baseline_bytes", lambda report: report["artifact"]["bytes"], lambda x: 1.02 * x, upper=True),
)
"""Half a thousandth of the pixels, 3 dB (twice the noise's power), a tenth of a point of mIoU, 2 % of the bytes."""


def read_baseline(path: Path) -> dict[str, Any]:
    """A report that `validate` or `convert` wrote. Raises `UsageError` for anything else."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"The baseline '{path}' cannot be read: {error}. Write one with --report.") from error
    if not isinstance(loaded, dict) or not {"artifact", "parity"} <= loaded.keys():
        raise UsageError(f"The baseline '{path}' is not a report of mobileseg. Write one with --report.")
    if "not_run" in loaded["parity"]:
        raise UsageError(f"The baseline '{path}' measured no parity. Write one with mobileseg validate --report.")
    return loaded


def regressions(report: Mapping[str, Any], baseline: Mapping[str, Any]) -> tuple[Gate, ...]:
    """A gate for each figure that the baseline has; one that was measured there and is not now does not pass.

    Raises `UsageError` for a baseline that was measured on other pictures.
    """
    new, old = _pictures(report), _pictures(baseline)
    if new != old:
        raise UsageError(
            f"The baseline was compared on {old}, this file on {new}: their figures say nothing about each other. "
            "Give the same pictures (--images, --image-count, --seed), or write a new baseline with --report."
        )
    gates = ((figure, figure.value(baseline), figure.value(report)) for figure in _FIGURES)
    return tuple(_gate(figure, before, now) for figure, before, now in gates if isinstance(before, (int, float)))


def _gate(figure: _Figure, before: float, now: Any) -> Gate:
    limit = figure.worse(before)
    if now == "infinite":
        now = float("inf")
    if not isinstance(now, (int, float)):
        return Gate(figure.name, limit, None, passed=False)
    return Gate(figure.name, limit, now, passed=now <= limit if figure.upper else now >= limit)


def _pictures(report: Mapping[str, Any]) -> str:
    notes = [note for note in report["parity"]["notes"] if note.startswith("compared on ")]
    return ", ".join(note.removeprefix("compared on ") for note in notes) or f"{report['parity']['images']} pictures"
