"""A report as JUnit XML: one suite a file, one case a gate, as CI services show tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree

Worded = Callable[[Mapping[str, Any]], str]
"""A gate of the report in words."""


def junit_xml(report: Mapping[str, Any], worded: Worded) -> str:
    """Gates that were not met are failures; a parity that was not run is a skipped case, and so no pass."""
    artifact, parity = report["artifact"], report["parity"]
    gates = parity.get("gates", ())
    failed = sum(not gate["passed"] for gate in gates)
    skipped = int("not_run" in parity)
    attributes = {
        "name": f"mobileseg {artifact['path']}",
        "timestamp": report["created"],
        "tests": str(len(gates) + skipped),
        "failures": str(failed),
        "skipped": str(skipped),
        "errors": "0",
    }
    suite = ElementTree.Element("testsuite", attributes)
    for gate in gates:
        case = ElementTree.SubElement(suite, "testcase", classname=artifact["path"], name=gate["name"])
        if not gate["passed"]:
            ElementTree.SubElement(case, "failure", message=worded(gate), type="GateError")
    if skipped:
        case = ElementTree.SubElement(suite, "testcase", classname=artifact["path"], name="parity")
        ElementTree.SubElement(case, "skipped", message=parity["not_run"])
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"
