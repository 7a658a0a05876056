"""A report as a few lines of Markdown, for the summary page of a CI run or a pull request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mobileseg.validation.junit import Worded


def markdown(report: Mapping[str, Any], worded: Worded, fault_worded: Worded) -> str:
    """What was compared, the figures, which gates were met, and which operators are wrong."""
    artifact, parity = report["artifact"], report["parity"]
    head = f"### {artifact['path']} ({artifact['target']}, {artifact['precision']}, {artifact['bytes']:,} bytes)\n\n"
    if "not_run" in parity:
        return f"{head}Not run: {parity['not_run']}\n"
    verdict = "All gates met" if parity["passed"] else "**Gates not met**"
    on = (
        "; ".join(note for note in parity["notes"] if note.startswith("compared on ")) or f"{parity['images']} pictures"
    )
    rows = [(name, parity[key]) for name, key in _FIGURES if isinstance(parity[key], (int, float, str))]
    figures = "".join(f"| {name} | {value if isinstance(value, str) else f'{value:.6g}'} |\n" for name, value in rows)
    gates = "".join(f"| {'met' if gate['passed'] else '**not met**'} | {worded(gate)} |\n" for gate in parity["gates"])
    faults = "".join(f"- {fault_worded(fault)}\n" for fault in report["operators"].get("faults", ()))
    return (
        f"{head}{verdict}, by {parity['runner']}, {on}.\n\n"
        f"| figure | value |\n|---|---|\n{figures}\n| gate | |\n|---|---|\n{gates}"
        + (f"\nOperators that are wrong, the first first:\n\n{faults}" if faults else "")
    )


_FIGURES = (
    ("pixel agreement", "pixel_agreement"),
    ("agreement along boundaries", "boundary_agreement"),
    ("SQNR, dB", "sqnr_db"),
    ("largest error", "max_abs_err"),
    ("mean error", "mean_abs_err"),
    ("mIoU of the checkpoint", "miou_reference"),
    ("mIoU of the file", "miou_artifact"),
)
