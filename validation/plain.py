"""Values of a report as JSON has them."""

from __future__ import annotations

import math

from mobileseg.types import NotRun


def not_run(reason: NotRun) -> dict[str, str]:
    """``{"not_run": why}``, which every field may be."""
    return {"not_run": reason.why}


def number(value: float | NotRun) -> float | str | dict[str, str]:
    """A number, ``"infinite"``, or why there is none."""
    if isinstance(value, NotRun):
        return not_run(value)
    return "infinite" if math.isinf(value) else value
