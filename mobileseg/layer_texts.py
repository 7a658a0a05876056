"""How layers and their errors are worded: one row a layer, for the screen, pages and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mobileseg.decibels import own_share
from mobileseg.texts import share_text, shortened

_LAYER, _OPERATOR, _FILE_LAYER, _FILE_OPERATOR = 28, 15, 24, 13
"""Characters that fit into 80 columns."""

SENSITIVITY_COLUMNS = ("Layer", "Operator", "Error", "Cost", "Alone", "All", "Float")
"""Of `sensitivity_rows`: share of the error, of the cost, SQNR where it alone is in int8 and where all are, whether it
is to stay in float."""

CURVE_COLUMNS = ("Units in float", "Cost", "Pixels equal")

SQNR_COLUMNS = ("Layer", "Operator", "In the file", "SQNR", "Own", "Own noise")
"""Of `sqnr_rows`: torch's layer and operator, the file's operator; SQNR with the errors of all before it and by itself;
the share of the noise that it adds itself."""


def sensitivity_rows(layers: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """``layers``: of a sensitivity's report."""
    return [
        (
            shortened(layer["module"] or layer["node"], _LAYER),
            _shortened_end(" + ".join(layer["operators"]), _OPERATOR),
            _percent(layer["error_share"]),
            _percent(layer["cost_share"]),
            decibel_text(layer["sqnr_db"]),
            decibel_text(layer["accumulated_sqnr_db"]),
            "yes" if layer["kept_float"] else "",
        )
        for layer in layers
    ]


def simulated_text(report: Mapping[str, Any]) -> str:
    """On what a sensitivity was measured, and how."""
    calibration = report["calibration"]
    return (
        f"int8 throughout in the forms of {report['target']}, simulated on {calibration['probes']} of the calibration "
        f"pictures, mirrored; {report['units']} units, ranges by {report['ranges']} over {calibration['source']}."
    )


def curve_rows(curve: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Units in float, what they cost, the share of pixels that keeps its class."""
    return [(str(s["units"]), _percent(s["cost_share"]), share_text(s["pixel_agreement"])) for s in curve]


def budget_text(report: Mapping[str, Any]) -> str:
    """What to keep in float for the budget, and what that costs."""
    budget, whole = report["budget"], report["curve"][0]["pixel_agreement"]
    kept, new = budget["kept"], f"{100 * budget['min_agreement']:.4g} % of new pictures' (--min-agreement)"
    asked = f"sought are {share_text(budget['sought'])}, for {new}"
    if not kept["units"]:
        return f"Nothing need stay in float: {share_text(whole)} of the pixels keep their class; {asked}."
    equal = f"{share_text(kept['pixel_agreement'])} of the pixels keep their class ({share_text(whole)} without)"
    cost = f"{_percent(kept['cost_share'])} of the cost"
    if not budget["met"]:
        return f"Half of the units in float, {cost}, do not suffice: {equal}; {asked}."
    return f"Keep {kept['units']} of the {report['units']} units in float, {cost}: {equal}; {asked}."


def worst_values(values: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """``values``: of a report's ``operators``. Each of the file's once, as the last of torch's that it is (a ReLU's,
    not its convolution's), lowest SQNR first."""
    last = {value["file_value"]: value for value in values}
    return sorted(last.values(), key=lambda value: _number(value["with_saturation"]["accumulated_sqnr_db"]))


def sqnr_rows(values: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """``values``: of a report's ``operators``."""
    rows: list[tuple[str, ...]] = []
    for value in values:
        own, accumulated = (value["with_saturation"][key] for key in ("sqnr_db", "accumulated_sqnr_db"))
        share = own_share(own, accumulated)
        rows.append(
            (
                shortened(value["module"] or value["node"], _FILE_LAYER),
                _shortened_end(value["operator"].removeprefix("_native_"), _OPERATOR),
                _shortened_end(value["file_operator"], _FILE_OPERATOR),
                decibel_text(accumulated),
                decibel_text(own),
                "-" if share is None else _percent(share),
            )
        )
    return rows


def decibel_text(decibels: float | str) -> str:
    """``"38.4"``; ``"exact"`` where there is no error."""
    return {"infinite": "exact", "no signal": "none"}[decibels] if isinstance(decibels, str) else f"{decibels:.1f}"


def _number(decibels: float | str) -> float:
    return {"infinite": float("inf"), "no signal": -float("inf")}[decibels] if isinstance(decibels, str) else decibels


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _shortened_end(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
