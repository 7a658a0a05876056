"""How the screen words what int8 made of a network: what stayed in float, what is odd, which classes lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mobileseg.texts import shortened

if TYPE_CHECKING:
    from mobileseg.types import ConvertedArtifact

NAMED = 3
"""How many names a line has, and how many warnings are shown; the report has all."""

LONGEST = 158
"""Characters of a warning: two lines of 80."""


def int8_texts(file: ConvertedArtifact) -> list[str]:
    """What a user should know of a converted file beside its table's row: one or two lines each."""
    report, name = file.report, file.artifact.path.name
    found = [*kept_texts(report, name), *warning_texts(report, name), *class_texts(report["parity"], name)]
    unmet = any(not gate["passed"] for gate in report["parity"].get("gates", ()))
    plan = report["quantization"].get("plan", {})
    return [*found, remedy_text(plan)] if unmet and "kept" in plan else found


def kept_texts(report: Mapping[str, Any], name: str) -> Iterator[str]:
    """What int8 kept in float, and what that costs."""
    plan = report["quantization"].get("plan", {})
    if not plan.get("kept"):
        return
    names = list(dict.fromkeys(shortened(unit["name"], 24) for unit in plan["kept"]))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    yield (
        f"{name}: {len(plan['kept'])} of {plan['units']} units in float, {100 * plan['cost_share']:.0f} % of the work: "
        f"{', '.join(names[:NAMED])}{more}."
    )


def warning_texts(report: Mapping[str, Any], name: str) -> Iterator[str]:
    """What is odd about calibration pictures and activations."""
    warnings = report["quantization"].get("warnings", ())
    yield from (_cut(f"Note, {name}: {warning}") for warning in warnings[:NAMED])
    if len(warnings) > NAMED:
        yield f"Note, {name}: {len(warnings) - NAMED} more in the report (quantization.warnings)."


def _cut(sentence: str) -> str:
    """At most two lines."""
    return sentence if len(sentence) <= LONGEST else f"{sentence[: LONGEST - 16]} ... (report)"


def class_texts(parity: Mapping[str, Any], name: str) -> Iterator[str]:
    """Classes that lost much, or are gone."""
    lost = parity.get("classes_lost", ())
    for found in () if isinstance(lost, Mapping) else lost:
        before, after = 100 * found["iou_reference"], 100 * found["iou_artifact"]
        yield f"Warning, {name}: class '{found['class']}' falls from {before:.1f} to {after:.1f} points of IoU."
    for found in parity.get("classes_vanished", ()):
        yield (
            f"Warning, {name}: class '{found['class']}' is given to no pixel; the reference gives it to "
            f"{found['pixels']:,}."
        )


def remedy_text(plan: Mapping[str, Any]) -> str:
    """What to try where int8 does not meet its gates."""
    ways = ["more calibration pictures, like those it is for (--calibration-size)"]
    if not plan["equalized"]:
        ways.append("equalized channels (without --no-equalize)")
    if plan["held"]:
        ways.append("a greater --min-agreement, which keeps more in float")
    elif plan["evaluations"] >= plan["budget"]["max_evaluations"]:
        ways.append("more evaluations (--max-evaluations)")
    ways.append("--fp16")
    held = "held" if plan["held"] else "did not hold"
    return (
        f"On {plan['probes']} calibration pictures, mirrored, int8's plan {held} what it was to "
        f"({100 * plan['agreement']:.2f} % of pixels equal). Try {', '.join(ways[:-1])}, or {ways[-1]}."
    )
