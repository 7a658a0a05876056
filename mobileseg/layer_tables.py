"""Tables of layers and their errors on a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mobileseg.layer_texts import (
    CURVE_COLUMNS,
    SENSITIVITY_COLUMNS,
    SQNR_COLUMNS,
    budget_text,
    curve_rows,
    sensitivity_rows,
    simulated_text,
    sqnr_rows,
    worst_values,
)

if TYPE_CHECKING:
    from mobileseg.console import Screen

SHOWN = 20
"""Layers of a file, the worst first."""


def show_sqnr(screen: Screen, values: Sequence[Mapping[str, Any]]) -> None:
    """Of a file's values those of lowest SQNR. ``values``: of a report's ``operators``; nothing is shown of none."""
    worst = worst_values(values)
    if not worst:
        return
    screen.console.print("\nSQNR in dB by layer, worst first:")
    screen.table(SQNR_COLUMNS, sqnr_rows(worst[:SHOWN]), right=SQNR_COLUMNS[3:])
    if len(worst) > SHOWN:
        screen.console.print(f"... and {len(worst) - SHOWN} more (--json lists all).")


def show_sensitivity(screen: Screen, report: Mapping[str, Any], top: int) -> None:
    """The ``top`` layers of most error, what the first in float give back, and what the budget asks for."""
    layers = report["layers"]
    screen.console.print(
        f"{simulated_text(report)}\n\nShare of error and cost; SQNR in dB, alone in int8 and with all:"
    )
    screen.table(SENSITIVITY_COLUMNS, sensitivity_rows(layers[:top]), right=SENSITIVITY_COLUMNS[2:])
    if len(layers) > top:
        screen.console.print(f"... and {len(layers) - top} more (--top; --json lists all).")
    screen.console.print("\nThe first units in float, those of most error for their cost first:")
    screen.table(CURVE_COLUMNS, curve_rows(report["curve"]), right=CURVE_COLUMNS)
    screen.console.print(f"\n{budget_text(report)}")
