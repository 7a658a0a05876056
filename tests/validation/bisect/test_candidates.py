from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mobileseg.types import TensorSpec
from mobileseg.validation.bisect.candidates import only_read_rounded
from mobileseg.validation.traces import Step, Trace
from mobileseg.validation.traces.base import Kept


def spec(name: str, scale: float | None = None) -> TensorSpec:
    return TensorSpec(
        name, (1, 2, 3, 4), "float32" if scale is None else "int8", "", scale, None if scale is None else 0
    )


def trace(*steps: tuple[str, tuple[str, ...], str], outputs: tuple[str, ...] = ("y",)) -> Trace:
    """Steps as (operator, inputs, output); values called ``q...`` are int8."""
    made = tuple(Step(i, operator, "", read, (given,)) for i, (operator, read, given) in enumerate(steps))
    names = {"x", *(key for step in made for key in (*step.inputs, *step.outputs))}
    specs = {name: spec(name, 0.5 if name.startswith("q") else None) for name in names}
    return Trace("", ("x",), outputs, made, specs, Kept(Path()))


def test_a_value_that_only_its_rounding_reads_is_that() -> None:
    found = trace(("PRELU", ("x",), "a"), ("CONVERT", ("a",), "qa"), ("MAX_POOL", ("qa",), "qp"), ("SUM", ("qp",), "y"))
    assert only_read_rounded(found) == {"a"}


@pytest.mark.parametrize(
    "steps",
    {
        "a float operator reads it, too": (
            ("PRELU", ("x",), "a"),
            ("CONVERT", ("a",), "qa"),
            ("ADD", ("a", "qa"), "y"),
        ),
        "it is the picture": (("CONVERT", ("x",), "qa"), ("SUM", ("qa",), "y")),
        "it is rounded already": (("CONV", ("x",), "qa"), ("RESCALE", ("qa",), "qb"), ("SUM", ("qb",), "y")),
        "what reads it gives no number of a scale": (("PRELU", ("x",), "a"), ("CLAMP", ("a",), "y")),
    }.items(),
    ids=lambda item: item[0],
)
def test_others_stay(steps: tuple[str, tuple[tuple[str, tuple[str, ...], str], ...]]) -> None:
    assert only_read_rounded(trace(*steps[1])) == frozenset()


def test_a_value_that_cannot_be_looked_at_stays() -> None:
    found = trace(("PRELU", ("x",), "a"), ("CONVERT", ("a",), "qa"), ("SUM", ("qa",), "y"))
    hidden = replace(found, specs={name: spec for name, spec in found.specs.items() if name != "a"})
    assert only_read_rounded(hidden) == frozenset()


def test_a_result_of_the_file_stays() -> None:
    found = trace(("CONV", ("x",), "y"), ("CONVERT", ("y",), "qa"))
    assert only_read_rounded(found) == frozenset()
