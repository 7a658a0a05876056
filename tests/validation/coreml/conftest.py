"""Packages of single operators, built with coremltools, and held against what they should give.

An example is ``(arrays, build, expected)``: ``build(mb, *values)`` makes the operator of values that are inputs (or,
for coremltools' own evaluation, constants) and returns one result or several; ``expected`` are these, by torch or
NumPy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Example = tuple[Sequence[np.ndarray], Callable[..., Any], Sequence[Any]]

WRONG_IN_COREMLTOOLS = {
    "concat": "it does not interleave",
    "cumsum": "exclusive sums end in a TypeError",
    "flatten2d": "axis 0 ends in a TypeError",
    "scatter_along_axis": "it updates, whatever the mode",
    "squeeze": "where no axis is left it ends in a ValueError",
}
"""Operators whose evaluation by coremltools is not what its documentation says."""


@pytest.fixture(scope="session")
def make_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make(arrays, build, target)``: a package with an input for each array, every result an output, no passes."""
    coremltools = pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")
    from coremltools.converters.mil.backend.mil.load import load as serialize
    from coremltools.converters.mil.mil import Builder, Function, Placeholder, Program, types

    from mobileseg import mlpackage

    folder, numbers = tmp_path_factory.mktemp("mil"), itertools.count()
    kinds = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}

    def as_output(value: Any) -> Any:
        if value.dtype in (types.fp32, types.fp16, types.int32):
            return Builder.identity(x=value)
        return Builder.cast(x=value, dtype="int32")

    def make(arrays: Sequence[np.ndarray], build: Callable[..., Any], target: str = "iOS17") -> Path:
        holders = {
            f"in_{i}": Placeholder(sym_shape=array.shape, dtype=kinds[str(array.dtype)])
            for i, array in enumerate(arrays)
        }
        with mlpackage.quietly():
            system = coremltools.target[target]
            with Function(holders, opset_version=system) as function:
                results = build(Builder, *function.inputs.values())
                results = results if isinstance(results, (list, tuple)) else [results]
                function.set_outputs([as_output(result) for result in results])
            program = Program()
            program.add_function("main", function)
            number = next(numbers)
            weights = folder / f"{number}.weights"
            weights.mkdir()
            # The serializer alone: what `convert` does around it takes half a second.
            spec = serialize(program, str(weights), specification_version=system.value)
        path = folder / f"{number}.mlpackage"
        mlpackage.write(spec, weights, path)
        return path

    return make


@pytest.fixture(scope="session")
def check(make_package: Callable[..., Path]) -> Callable[..., None]:
    """Runs several examples of one operator in one package, and holds each against what is expected and against
    coremltools' own evaluation, where it has one."""
    import coremltools
    from coremltools.converters.mil.mil import Builder, Function

    from mobileseg import mlpackage
    from mobileseg.validation.coreml import load

    def evaluated(example: Example, target: str) -> list[Any]:
        arrays, build, _ = example
        with mlpackage.quietly(), Function({}, opset_version=coremltools.target[target]):
            results = build(Builder, *[array.copy() for array in arrays])
        results = results if isinstance(results, (list, tuple)) else [results]
        return [result.val for result in results]

    def check(kind: str, examples: Sequence[Example], target: str = "iOS17", rtol: float = 2e-5) -> None:
        arrays = [array for example in examples for array in example[0]]

        def build(mb: Any, *values: Any) -> list[Any]:
            rest, results = list(values), list[Any]()
            for own, make, _ in examples:
                made = make(mb, *rest[: len(own)])
                rest = rest[len(own) :]
                results += made if isinstance(made, (list, tuple)) else [made]
            return results

        executor = load(make_package(arrays, build, target))
        assert executor.unsupported == ()
        assert kind in {operation.kind for operation in executor.program.operations}
        got = list(executor.run({f"in_{i}": array for i, array in enumerate(arrays)}).values())
        for example in examples:
            own, got = got[: len(example[2])], got[len(example[2]) :]
            others = [] if kind in WRONG_IN_COREMLTOOLS else evaluated(example, target)
            for index, (actual, wanted) in enumerate(zip(own, example[2], strict=True)):
                compare(actual, np.asarray(wanted), rtol)
                if index < len(others) and others[index] is not None:
                    compare(actual, np.asarray(others[index]), max(rtol, 1e-4))
        assert not got

    def compare(actual: np.ndarray, wanted: np.ndarray, rtol: float) -> None:
        assert actual.shape == wanted.shape
        np.testing.assert_allclose(actual.astype(np.float64), wanted.astype(np.float64), rtol, rtol)

    return check
