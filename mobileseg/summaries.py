"""What a validation found, written down for machines and people."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

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
from mobileseg.texts import fault_text, gate_text, parity_facts

if TYPE_CHECKING:
    from mobileseg.proving import Validation
    from mobileseg.sensing import Sensitivity

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
"""Names the file whose Markdown GitHub Actions shows on a run's page."""


SHOWN = 40
"""Values of lowest SQNR on the page."""


def write_sensitivity(found: Sensitivity, *, report: Path | None = None, html: Path | None = None) -> None:
    """Write a sensitivity as JSON and as a page where asked for. Raises `OutputError` where a file cannot be
    written."""
    from mobileseg.outputs import explained
    from mobileseg.validation.page import sensitivity_page

    said = found.report
    texts = {
        report: lambda: json.dumps(said, indent=2, allow_nan=False) + "\n",
        html: lambda: sensitivity_page(
            said,
            found.checkpoint.path.name,
            simulated_text(said),
            budget_text(said),
            (SENSITIVITY_COLUMNS, SENSITIVITY_COLUMNS[2:], sensitivity_rows(said["layers"])),
            (CURVE_COLUMNS, CURVE_COLUMNS, curve_rows(said["curve"])),
        ),
    }
    for path, text in texts.items():
        if path is not None:
            with explained(path):
                path.write_text(text(), encoding="utf-8")


def write_summaries(
    validation: Validation,
    *,
    report: Path | None = None,
    junit: Path | None = None,
    markdown: Path | None = None,
    html: Path | None = None,
) -> None:
    """Write the report as JSON, JUnit XML, Markdown and HTML where asked for, and Markdown to the summary of a GitHub
    Actions run. Raises `OutputError` where a file cannot be written."""
    from mobileseg.outputs import explained
    from mobileseg.validation.junit import junit_xml
    from mobileseg.validation.markdown import markdown as as_markdown
    from mobileseg.validation.page import page
    from mobileseg.validation.report import write_report

    found = validation.report
    if report is not None:
        write_report(found, report)
    texts = {
        junit: lambda: junit_xml(found, gate_text),
        markdown: lambda: as_markdown(found, gate_text, fault_text),
        html: lambda: page(
            found,
            validation.worst.strips(validation.palette),
            parity_facts(found),
            gate_text,
            fault_text,
            (SQNR_COLUMNS, SQNR_COLUMNS[3:], sqnr_rows(worst_values(found["operators"].get("values", ()))[:SHOWN])),
        ),
    }
    for path, text in texts.items():
        if path is not None:
            with explained(path):
                path.write_text(text(), encoding="utf-8")
    summary = os.environ.get(SUMMARY_VARIABLE)
    if summary:
        with explained(Path(summary)), Path(summary).open("a", encoding="utf-8") as file:
            file.write(as_markdown(found, gate_text, fault_text))
