"""A report as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mobileseg.validation.junit import Worded
from mobileseg.validation.metrics import EQUAL
from mobileseg.validation.plot import layer_plot, operator_plot

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE, SENSITIVITY = "page.html.j2", "sensitivity.html.j2"

Words = tuple[Sequence[str], Sequence[str], Sequence[Sequence[str]]]
"""A table: its columns, those of numbers, and its rows."""

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
    worst: Words,
) -> str:
    """``facts``: the report's figures in words; ``worded``: a gate, ``fault_worded``: a wrong operator in words;
    ``worst``: the file's values of lowest SQNR."""
    parity = report["parity"]
    return _template(TEMPLATE).render(
        report=report,
        parity=parity,
        facts=facts,
        gates=[(gate["passed"], worded(gate)) for gate in parity.get("gates", ())],
        histogram=_bars_of_errors(parity.get("error_histogram")),
        classes=_bars_of_classes(parity.get("per_class_iou_against_reference", {})),
        changes=_bars_of_changes(parity.get("per_class_iou_change", {})),
        strips=strips,
        worst=worst,
        plot=operator_plot(report["operators"].get("values", ())),
        faults=[fault_worded(fault) for fault in report["operators"].get("faults", ())],
    )


def sensitivity_page(
    report: Mapping[str, Any], name: str, simulated: str, verdict: str, layers: Words, curve: Words
) -> str:
    """``report``: of `mobileseg.sensitivity`; ``name``: of the network; the others: what it says, in words."""
    plot = layer_plot(sorted(report["layers"], key=lambda layer: int(layer["place"])))
    return _template(SENSITIVITY).render(
        report=report, name=name, simulated=simulated, verdict=verdict, layers=layers, curve=curve, plot=plot
    )


def _template(name: str) -> Template:
    import jinja2

    loader = jinja2.PackageLoader("mobileseg.validation", ".")
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)


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
