"""coremltools' own tests of MIL's operators, which hold Core ML to what they expect, with the executor in its place.

    python benchmarks/coreml_own_tests.py --each 4
    python benchmarks/coreml_own_tests.py --only test_pool.py --each 1000

coremltools brings its tests along. On a Mac they convert a program, let Core ML predict and compare with what they
expect; elsewhere they convert it and stop. Here the reference executor predicts. Programs are of float32; of a test
that is run with many parameters, ``--each`` are drawn. Values of float16 are compared in float16's precision, all
others as the test says. Recurrent and random operators, states and control flow, which the executor has not, are left
out.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {
    "PYMIL_TEST_TARGETS": "mlprogram",
    "INCLUDE_MIL_FP32_UNIT_TESTS": "1",
    "RUN_BACKWARD_COMPATIBILITY": "1",
}  # read when coremltools' tests are imported

import numpy as np
import pytest
from numpy.typing import NDArray

from mobileseg import mlpackage
from mobileseg.errors import UnavailableError
from mobileseg.validation.coreml import Executor, load

with mlpackage.quietly():
    import coremltools
    from coremltools.converters.mil import testing_reqs, testing_utils

TESTS = Path(coremltools.__file__).parent / "converters" / "mil" / "mil" / "ops" / "tests"
LEFT_OUT = ("test_recurrent.py", "test_random.py", "test_control_flow.py", "test_states.py")
HALF = 2e-3
"""Relative and absolute, where the program has values of float16: two of its steps."""

NOT_OURS = ("test_efficient_type_inference",)
"""Tests of how fast coremltools is."""


class Plugin:
    """Draws the tests, predicts in Core ML's place, and counts what comes of it."""

    def __init__(self, each: int) -> None:
        self.each, self.runs, self.counts, self.told = each, 0, collections.Counter[str](), list[str]()

    def opened(self, model: Any) -> Executor:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.mlpackage"
            model.save(str(path))
            executor = load(path)
        if executor.unsupported:
            pytest.skip(f"unsupported: {'; '.join(executor.unsupported)}")
        return executor

    def run(self, executor: Executor, values: dict[str, Any]) -> dict[str, NDArray[Any]]:
        given = {}
        for source in executor.program.inputs:
            value = np.asarray(values[source.name])
            given[source.name] = value.reshape(1) if value.shape == () and source.type.shape == (1,) else value
        self.runs += 1
        try:
            return executor.run(given)
        except UnavailableError as error:
            pytest.skip(f"not defined: {error}")

    def compared(
        self,
        mlmodel: Any,
        input_key_values: dict[str, Any],
        expected_outputs: dict[str, Any],
        dtype: str = "fp32",
        atol: float = 1e-4,
        rtol: float = 1e-5,
        also_compare_shapes: bool = True,
        state: Any = None,
        allow_mismatch_ratio: float = 0.0,
    ) -> dict[str, NDArray[Any]]:
        """In the place of coremltools' ``compare_backend``, whose parameters these are."""
        executor = self.opened(mlmodel)
        results = self.run(executor, input_key_values)
        named = (*executor.program.inputs, *(value for o in executor.program.operations for value in o.outputs))
        if any(value.type.kind == "fp16" for value in named):
            atol, rtol = max(atol, HALF), max(rtol, HALF)
        for name, wanted in expected_outputs.items():
            got = testing_utils._get_coreml_out_from_dict(results, name)
            if also_compare_shapes and (np.shape(wanted), got.shape) != ((), (1,)):
                assert got.shape == np.shape(wanted)
            np.testing.assert_allclose(got, wanted, atol=atol, rtol=rtol)
        return results

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        groups: dict[str, list[Any]] = {}
        for item in items:
            groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
        draw = random.Random(0)
        items[:] = [
            item
            for name, group in groups.items()
            if not name.endswith(NOT_OURS)
            for item in (group if len(group) <= self.each else draw.sample(group, self.each))
        ]

    def pytest_runtest_logreport(self, report: Any) -> None:
        ran, self.runs = self.runs > 0, 0
        if report.when != "call" and not (report.when == "setup" and report.skipped):
            return
        why = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        kind = next((k for k in ("unsupported", "not defined") if why.startswith(k)), "skipped by the test")
        outcome = "expected to fail on a Mac" if hasattr(report, "wasxfail") else report.outcome
        outcome = kind if outcome == "skipped" else outcome
        outcome = "passed without a program to run" if outcome == "passed" and not ran else outcome
        self.counts[outcome] += 1
        if outcome in ("failed", "unsupported", "not defined"):
            self.told.append(f"{outcome}: {report.nodeid.partition('[')[0]}: {why or report.longreprtext[-400:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=4, help="how many of a test's sets of parameters")
    parser.add_argument("--only", default="test_", help="part of the files' names")
    options = parser.parse_args()
    testing_reqs.backends_internal[:] = [b for b in testing_reqs.backends_internal if b.precision == "fp32"]
    testing_reqs.backends[:] = [("mlprogram", "fp32")]
    files = [str(f) for f in sorted(TESTS.glob("iOS*/test_*.py")) if f.name not in LEFT_OUT and options.only in f.name]
    plugin = Plugin(options.each)
    testing_utils.compare_backend = plugin.compared
    coremltools.models.MLModel.predict = lambda model, values, state=None: plugin.run(plugin.opened(model), values)
    with tempfile.TemporaryDirectory() as folder:
        how = [
            "-q",
            "-c",
            os.devnull,
            "--rootdir",
            folder,
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore",
            "--tb=no",
            "--no-header",
        ]
        pytest.main([*how, *files], plugins=[plugin])
    for line in plugin.told:
        print(line)
    for outcome, count in plugin.counts.most_common():
        print(f"| {outcome} | {count} |")


if __name__ == "__main__":
    main()
