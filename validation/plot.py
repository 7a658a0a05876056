"""SQNR along a network, drawn for the HTML report: one column a value, in torch's order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HEIGHT, COLUMN, TOP_DB = 160.0, 6.0, 140.0
"""Of the drawing in its own units; what lies above the top is drawn there."""

STEPS_DB = (0, 20, 40, 60, 80, 100, 120)

INT8_TOP_DB, INT8_STEPS_DB = 60.0, (0, 10, 20, 30, 40, 50)
"""The same of values in int8."""

BARS, DECADES, _GAP = 60.0, 6, 12.0
"""Height of a bar that is all of the error, the decades down to one that is not drawn, and the gap above bars."""


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


@dataclass(frozen=True)
class ErrorBar:
    """One unit's share of the error. ``kept``: it is to stay in float."""

    x: float
    y: float
    height: float
    kept: bool
    text: str


@dataclass(frozen=True)
class LayerPlot(Plot):
    """A plot with bars below."""

    bars: Sequence[ErrorBar]
    bar_height: float
    bar_width: float


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


def layer_plot(layers: Sequence[Mapping[str, Any]]) -> LayerPlot | None:
    """``layers``: of a sensitivity's report, in the network's order. None for none."""
    if not layers:
        return None
    points, bars = [], []
    for i, layer in enumerate(layers):
        name = f"{' + '.join(layer['operators'])} {layer['module']} ({layer['node']})"
        said = f"{_text(layer['sqnr_db'])} alone, {_text(layer['accumulated_sqnr_db'])} with all in int8"
        own, all_ = (_height(layer[key], INT8_TOP_DB) for key in ("sqnr_db", "accumulated_sqnr_db"))
        points.append(Point((i + 0.5) * COLUMN, own, all_, f"{name}: {said}"))
        height = BARS * max(0.0, 1.0 + math.log10(max(layer["error_share"], 1e-9)) / DECADES)
        text = f"{name}: {100 * layer['error_share']:.1f} % of the error, {100 * layer['cost_share']:.1f} % of the cost"
        bars.append(ErrorBar(i * COLUMN + 1.0, HEIGHT + BARS + _GAP - height, height, layer["kept_float"], text))
    return LayerPlot(
        width=len(layers) * COLUMN,
        height=HEIGHT,
        points=points,
        lines=[(_height(float(db), INT8_TOP_DB), db) for db in INT8_STEPS_DB],
        bars=bars,
        bar_height=BARS + _GAP,
        bar_width=COLUMN - 2.0,
    )


def _height(decibels: float | str, top: float = TOP_DB) -> float:
    number = {"infinite": top, "no signal": 0.0}.get(decibels, 0.0) if isinstance(decibels, str) else decibels
    return HEIGHT * (1.0 - min(max(number, 0.0), top) / top)


def _text(decibels: float | str) -> str:
    return decibels if isinstance(decibels, str) else f"{decibels:.1f} dB"
