"""SQNR along a network, drawn for the HTML report: one column a value, in torch's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HEIGHT, COLUMN, TOP_DB = 160.0, 6.0, 140.0
"""Of the drawing in its own units; what lies above the top is drawn there."""

STEPS_DB = (0, 20, 40, 60, 80, 100, 120)


@dataclass(frozen=True)
class Point:
    """One value. ``x``, ``own``, ``accumulated``: in the drawing's units; ``text``: what is told of it."""

    x: float
    own: float
    accumulated: float
    text: str


@dataclass(frozen=True)
class Plot:
    """``lines``: of the grid, each with its dB."""

    width: float
    height: float
    points: Sequence[Point]
    lines: Sequence[tuple[float, int]]

    @property
    def own(self) -> str:
        """SVG points of the operators' own errors."""
        return " ".join(f"{p.x:.1f},{p.own:.1f}" for p in self.points)

    @property
    def accumulated(self) -> str:
        """SVG points of the errors with those of all operators before."""
        return " ".join(f"{p.x:.1f},{p.accumulated:.1f}" for p in self.points)


def operator_plot(values: Sequence[Mapping[str, Any]]) -> Plot | None:
    """``values``: of the report's ``operators``. None for none."""
    if not values:
        return None
    points = [
        Point(
            (i + 0.5) * COLUMN,
            _height(value["sqnr_db"]),
            _height(value["accumulated_sqnr_db"]),
            f"{value['operator']} {value['module']} ({value['node']}) as {value['file_operator']}: "
            f"{_text(value['sqnr_db'])} by itself, {_text(value['accumulated_sqnr_db'])} with what came before",
        )
        for i, value in enumerate(values)
    ]
    return Plot(len(values) * COLUMN, HEIGHT, points, [(_height(float(db)), db) for db in STEPS_DB])


def _height(decibels: float | str) -> float:
    number = {"infinite": TOP_DB, "no signal": 0.0}.get(decibels, 0.0) if isinstance(decibels, str) else decibels
    return HEIGHT * (1.0 - min(max(number, 0.0), TOP_DB) / TOP_DB)


def _text(decibels: float | str) -> str:
    return decibels if isinstance(decibels, str) else f"{decibels:.1f} dB"
