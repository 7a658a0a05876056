"""`mobileseg doctor`: what works here, what would be rewritten, and its exit codes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mobileseg import diagnosis
from mobileseg.diagnosis import Backend, import_fault


@pytest.fixture
def working(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the backends takes seconds; one test does."""
    works = (Backend("onnx", {"onnx": "1"}, None, None),)
    monkeypatch.setattr(diagnosis, "check_backends", lambda targets: works)


def test_the_backends_of_this_machine(run: Any) -> None:
    ended = run("doctor", "--to", "onnx", "--json")
    assert ended.code == 0, ended
    (backend,) = ended.json["backends"]
    assert backend["works"]
    assert backend["packages"]["onnx"][0].isdigit()
    assert ended.json["checkpoint"] is None


def test_nothing_works(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    absent = ("onnxsim", "litert_torch", "coremltools", "executorch")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in absent else real(name, *a))
    ended = run("doctor")
    assert ended.code == 4
    assert "pip install 'mobileseg[tflite]'" in ended.out
    assert "missing" in ended.out


@pytest.mark.usefixtures("working")
def test_what_would_be_rewritten(run: Any, checkpoint: Path) -> None:
    ended = run("doctor", checkpoint, "--to", "tflite", "--size", "64x64", "--json")
    assert ended.code == 0, ended
    (target,) = ended.json["targets"]
    assert target["convertible"]
    rewrites = {r["name"]: r for r in target["rewrites"]}
    assert rewrites["rewrite_transposed_convolution"]["count"] == 3
    assert rewrites["rewrite_unpooling"] == {**rewrites["rewrite_unpooling"], "count": 0, "exact": "bit-exact"}
    assert not list(Path().iterdir())
    shown = run("doctor", checkpoint, "--to", "tflite", "--size", "64x64").out
    assert "3 x" in shown
    assert "Nothing is left that it cannot run." in shown


@pytest.mark.usefixtures("working")
def test_a_network_that_cannot_be_rewritten(run: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from mobileseg.converters import onnx

    monkeypatch.setattr(onnx, "TARGET", replace(onnx.TARGET, forbidden=frozenset({"relu"})))
    ended = run("doctor", checkpoint, "--to", "onnx", "--size", "64x64")
    assert ended.code == 2
    assert "cannot be rewritten exactly" in ended.out


@pytest.mark.usefixtures("working")
def test_bad_checkpoint(run: Any) -> None:
    ended = run("doctor", "absent.pth", "--json")
    assert ended.code == 2
    assert ended.error["type"] == "CheckpointError"


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("pass", None),
        ("import sys; sys.exit('libfoo.so: undefined symbol')", "importing it fails: libfoo.so: undefined symbol"),
        ("import os; os.abort()", "importing it ends Python with status -6"),
    ],
)
def test_how_an_import_ends(code: str, fault: str | None) -> None:
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert import_fault(process) == fault
