"""Gates at, above and below their limits, and without the values that they need."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mobileseg.errors import OptionError
from mobileseg.types import GateLimits, NotRun
from mobileseg.validation.gates import all_passed, apply_gates
from mobileseg.validation.metrics import Agreement, ClassAgreement, LabelScores, LogitErrors
from mobileseg.validation.parity import ParityResult


def result(agreement=1.0, sqnr=100.0, miou=None, head="logits") -> ParityResult:
    scores = NotRun("no labels were given")
    if miou is not None:
        none = np.zeros((1, 2), np.int64)
        scores = LabelScores(miou[0], miou[1], 0.9, 0.9, (miou[0],), (miou[1],), none, none)
    return ParityResult(
        runner="test",
        notes=(),
        head=head,
        images=1,
        errors=NotRun("classes") if head == "argmax" else LogitErrors(0.1, 0.01, sqnr, 1.0),
        agreement=Agreement(agreement, 1.0, 0.0),
        classes=ClassAgreement((1.0,), np.zeros((1, 2), np.int64)),
        scores=scores,
    )


def outcome(gates):
    return {gate.name: gate.passed for gate in gates}


@pytest.mark.parametrize(
    ("precision", "measured", "expected"),
    [
        ("fp32", result(0.9999, 60.0), {"pixel_agreement": True, "sqnr_db": True}),
        ("fp32", result(0.99989, 60.0), {"pixel_agreement": False, "sqnr_db": True}),
        ("fp32", result(0.9999, 59.99), {"pixel_agreement": True, "sqnr_db": False}),
        ("fp32", result(1.0, math.inf), {"pixel_agreement": True, "sqnr_db": True}),
        ("fp32", result(1.0, head="argmax"), {"pixel_agreement": True}),
        ("fp16", result(0.995, 5.0), {"pixel_agreement": True}),
        ("fp16", result(0.9949, 99.0), {"pixel_agreement": False}),
        ("int8", result(0.97), {"pixel_agreement": True}),
        ("int8", result(0.9699), {"pixel_agreement": False}),
        ("int8", result(0.98, miou=(0.61, 0.60)), {"pixel_agreement": True, "miou_drop_points": True}),
        ("int8", result(0.98, miou=(0.61, 0.5999)), {"pixel_agreement": True, "miou_drop_points": False}),
        ("int8", result(0.98, miou=(0.5, 0.6)), {"pixel_agreement": True, "miou_drop_points": True}),
        ("int8", result(0.96, miou=(0.5, 0.5)), {"pixel_agreement": False, "miou_drop_points": True}),
    ],
)
def test_defaults(precision, measured, expected):
    gates = apply_gates(measured, precision)
    assert outcome(gates) == expected
    assert all_passed(gates) == all(expected.values())


def test_a_given_limit_replaces_one_default_and_leaves_the_others():
    gates = apply_gates(result(0.98, 50.0), "fp32", GateLimits(min_agreement=0.9))
    assert [(gate.name, gate.limit, gate.passed) for gate in gates] == [
        ("pixel_agreement", 0.9, True),
        ("sqnr_db", 60.0, False),
    ]


def test_a_limit_of_zero_is_a_limit():
    gates = apply_gates(result(0.98, miou=(0.6, 0.5999)), "int8", GateLimits(max_miou_drop=0.0))
    assert outcome(gates) == {"pixel_agreement": True, "miou_drop_points": False}


@pytest.mark.parametrize(
    ("measured", "limits", "name"),
    [
        (result(head="argmax"), GateLimits(min_sqnr_db=10.0), "sqnr_db"),
        (result(), GateLimits(max_miou_drop=5.0), "miou_drop_points"),
        (result(sqnr=NotRun("NaN")), GateLimits(), "sqnr_db"),
    ],
)
def test_what_was_not_measured_does_not_pass(measured, limits, name):
    gates = apply_gates(measured, "fp32", limits)
    gate = next(gate for gate in gates if gate.name == name)
    assert gate.value is None
    assert not gate.passed
    assert not all_passed(gates)


def test_an_unknown_precision_needs_limits_of_its_own():
    with pytest.raises(OptionError, match="--min-agreement"):
        apply_gates(result(), "unknown")
    assert outcome(apply_gates(result(0.5), "unknown", GateLimits(min_agreement=0.6))) == {"pixel_agreement": False}


def test_no_gate_is_not_a_pass():
    assert not all_passed(())
    gate = apply_gates(result(), "fp16")[0]
    assert all_passed((gate,))
    assert not all_passed((gate, replace(gate, passed=False)))


@pytest.mark.parametrize(
    ("sqnr", "own", "limit", "passed"),
    [
        (56.0, 55.0, 52.0, True),
        (51.9, 55.0, 52.0, False),
        (56.0, 62.0, 59.0, False),
        (56.0, 130.0, 60.0, False),
        (56.0, math.inf, 60.0, False),
    ],
)
def test_no_more_is_asked_than_the_checkpoint_itself_determines(sqnr, own, limit, passed):
    (_, gate) = apply_gates(replace(result(1.0, sqnr), reference_sqnr_db=own), "fp32")
    assert (gate.limit, gate.passed) == (limit, passed)


def test_a_limit_that_was_asked_for_is_not_eased():
    (_, gate) = apply_gates(replace(result(1.0, 56.0), reference_sqnr_db=55.0), "fp32", GateLimits(min_sqnr_db=58.0))
    assert (gate.limit, gate.passed) == (58.0, False)
