"""Parity as one line of your own tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg.proving import validate
from mobileseg.texts import fault_text, gate_text

if TYPE_CHECKING:
    from mobileseg.proving import Validation


def assert_parity(artifact: str | Path, against: str | Path | None = None, **options: Any) -> Validation:
    """`mobileseg.validate`, whose gates that are not met are an `AssertionError` that names each with its figures.

        def test_the_model_in_the_app() -> None:
            assert_parity("app/models/enet.int8.tflite", against="enet.pth", images="tests/pictures")

    ``options``: those of `mobileseg.validate`. Returns what it returns; raises what it raises.
    """
    found = validate(artifact, against=against, **options)
    if not found.passed:
        missed = [gate_text(gate) for gate in found.report["parity"]["gates"] if not gate["passed"]]
        missed += [fault_text(fault) for fault in found.report["operators"].get("faults", ())]
        raise AssertionError(f"'{artifact}' is not equal to what it was held against: {'; '.join(missed)}.")
    return found
