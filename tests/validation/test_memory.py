"""The memory that a runtime holds for a file, and where it is not measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mobileseg.types import NotRun
from mobileseg.validation import memory
from mobileseg.validation.runners import executorch_coreml, open_artifact

needs_glibc = pytest.mark.skipif(memory._counter() is None, reason="only glibc counts what is allocated")


@needs_glibc
def test_what_is_allocated_is_counted_to_the_byte() -> None:
    count = memory._counter()
    assert count is not None
    before = count()
    kept = np.ones(1_000_000, np.uint8)
    assert 1_000_000 <= count() - before < 1_010_000
    del kept
    assert abs(count() - before) < 10_000


@needs_glibc
def test_a_file_takes_the_same_each_time_and_not_its_input(make_onnx: Any) -> None:
    runner = open_artifact(make_onnx())
    first, second = memory.held_bytes(runner), memory.held_bytes(runner)
    assert isinstance(first, int)
    assert isinstance(second, int)
    assert 1000 < first < 20_000_000
    assert first == pytest.approx(second, rel=0.05)


def test_what_is_not_measured_says_why(make_onnx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = open_artifact(make_onnx())
    artifact = runner.artifact
    assert memory.held_bytes(replace(runner, cannot_run="not here")) == NotRun("not here")
    package = replace(runner, artifact=replace(artifact, path=artifact.path.with_suffix(".mlpackage")))
    assert memory.held_bytes(package) == NotRun("Core ML plans its memory on the device")
    inside = replace(runner, notes=(executorch_coreml.NOTE,))
    assert memory.held_bytes(inside) == NotRun("Core ML plans its memory on the device")
    source = replace(artifact.inputs[0], shape=(1, 3, -1, -1))
    assert "more than one size" in str(memory.held_bytes(replace(runner, artifact=replace(artifact, inputs=(source,)))))
    if memory._counter() is not None:
        wrong = replace(artifact.inputs[0], shape=(1, 3, 2, 2))
        found = memory.held_bytes(replace(runner, artifact=replace(artifact, inputs=(wrong,))))
        assert found == NotRun("the file does not run on zeros")
    monkeypatch.setattr(memory, "_counter", lambda: None)
    assert "glibc" in str(memory.held_bytes(runner))


@needs_glibc
def test_any_number_of_pictures_is_measured_with_one(make_onnx: Any) -> None:
    assert isinstance(memory.held_bytes(open_artifact(make_onnx(batch="n"))), int)


def test_a_system_without_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        pass

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library())
    assert memory._counter() is None
    with pytest.raises(SystemExit):
        memory._main("a.onnx", "float32", "1")
