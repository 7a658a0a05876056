"""A report as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from mobileseg.validation.junit import Worded
from mobileseg.validation.metrics import EQUAL
from mobileseg.validation.plot import operator_plot

TEMPLATE = "page.html.j2"

_POWERS = 20


@dataclass(frozen=True)
class Strip:
    """One picture's drawings: caption and ``data:`` URI of each. ``agreement``: share of its pixels, in words."""

    name: str
    agreement: str
    drawings: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Bar:
    """One bar of a chart. ``share``: of the longest, 0 to 1; ``text``: beside it."""

    label: str
    share: float
    text: str


def page(
    report: Mapping[str, Any],
    strips: Sequence[Strip],
    facts: Sequence[tuple[str, str]],
    worded: Worded,
    fault_worded: Worded,
) -> str:
    """``facts``: the report's figures in words; ``worded``: a gate, ``fault_worded``: a wrong operator in words."""
    import jinja2

    text = resources.files("mobileseg.validation").joinpath(TEMPLATE).read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
    parity = report["parity"]
    return template.render(
        report=report,
        parity=parity,
        facts=facts,
        gates=[(gate["passed"], worded(gate)) for gate in parity.get("gates", ())],
        histogram=_bars_of_errors(parity.get("error_histogram")),
        classes=_bars_of_classes(parity.get("per_class_iou_against_reference", {})),
        changes=_bars_of_changes(parity.get("per_class_iou_change", {})),
        strips=strips,
        plot=operator_plot(report["operators"].get("values", ())),
        faults=[fault_worded(fault) for fault in report["operators"].get("faults", ())],
    )


def _bars_of_errors(histogram: Any) -> list[Bar]:
    """From the largest errors down; those beyond the first `_POWERS` of two are one bar."""
    if not isinstance(histogram, list) or not histogram:
        return []
    whole = sum(count for _, count in histogram)
    lowest = max(exponent for exponent, _ in histogram) - _POWERS
    counts: dict[str, int] = {}
    for exponent, count in sorted(histogram, reverse=True):
        label = "equal" if exponent == EQUAL else f"below {2.0 ** max(exponent, lowest):.3g}"
        counts[label] = counts.get(label, 0) + count
    most = max(counts.values())
    return [Bar(label, count / most, f"{100 * count / whole:.3g} %") for label, count in counts.items()]


def _bars_of_classes(ious: Mapping[str, Any]) -> list[Bar]:
    return [Bar(name, iou, f"{iou:.4f}") for name, iou in ious.items() if isinstance(iou, (int, float))]


def _bars_of_changes(changes: Mapping[str, Any]) -> list[Bar]:
    """In points; those that lost come first."""
    found = {name: 100 * value for name, value in changes.items() if isinstance(value, (int, float))}
    largest = max((abs(value) for value in found.values()), default=0.0) or 1.0
    ordered = sorted(found.items(), key=lambda item: item[1])
    return [Bar(name, abs(value) / largest, f"{value:+.2f}") for name, value in ordered]
