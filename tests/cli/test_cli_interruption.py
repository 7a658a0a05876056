"""Ctrl-C and SIGTERM: their exit codes, one line, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobileseg.console import Screen

LINE = "Interrupted. Nothing unfinished was left behind."
STAGES = ("Load the checkpoint", "Export", "Rewrite for onnx", "Lower to onnx", "Run and compare onnx")


def interrupt_in(monkeypatch: pytest.MonkeyPatch, stage: str) -> list[str]:
    """The first second of a stage of that name is Ctrl-C's; returns the stages that are then seen."""
    seen: list[str] = []

    @contextmanager
    def stage_of(self: Screen, name: str) -> Iterator[None]:
        seen.append(name)
        if name.startswith(stage):
            signal.raise_signal(signal.SIGINT)
        yield

    monkeypatch.setattr(Screen, "stage", stage_of)
    return seen


@pytest.mark.usefixtures("quick_onnx")
@pytest.mark.parametrize("stage", STAGES)
def test_in_every_stage(run: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    seen = interrupt_in(monkeypatch, stage)
    ended = run("convert", checkpoint, "--to", "onnx", "--size", "64x64", "--json", "--output", "a/b")
    assert seen[-1] == stage
    interrupted(ended)


def test_while_quantizing(run: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobileseg.converters import tflite

    def lower(rewritten: object, lowering: object, path: Path) -> None:
        path.write_bytes(b"not looked into")

    monkeypatch.setattr(tflite, "TARGET", replace(tflite.TARGET, lower=lower))
    seen = interrupt_in(monkeypatch, "Quantize")
    ended = run("convert", checkpoint, "--int8", "--size", "64x64", "--calibration", "synthetic", "--json")
    assert seen[-1] == "Quantize tflite"
    interrupted(ended)


@pytest.mark.usefixtures("quick_onnx")
def test_that_a_library_turns_into_an_error_of_its_own(
    run: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, quick_onnx: Any
) -> None:
    from mobileseg.converters import onnx

    def swallowing(rewritten: Any, lowering: Any, path: Path) -> None:
        path.write_bytes(b"half")
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ValueError("callback failed") from error

    monkeypatch.setattr(onnx, "TARGET", replace(quick_onnx, lower=swallowing))
    interrupted(run("convert", checkpoint, "--to", "onnx", "--size", "64x64", "--json"))


def interrupted(ended: Any) -> None:
    assert ended.code == 130
    assert ended.error == {"type": "Interrupted", "message": LINE, "exit_code": 130}
    assert ended.err.splitlines()[-1] == LINE
    assert "Traceback" not in ended.err
    assert not list(Path().iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_real_signal(
    number: signal.Signals, code: int, checkpoint: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    root = Path(__file__).resolve().parents[2]
    output = tmp_path / "out"
    command = [sys.executable, "-m", "mobileseg", "convert", str(checkpoint), "--to", "onnx", "--size", "64x64"]
    with subprocess.Popen(
        [*command, "--output", str(output)], cwd=root, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line == "Export ...\n":
                process.send_signal(number)
    assert process.returncode == code
    assert lines[-1] == f"{LINE}\n"
    assert "Traceback" not in "".join(lines)
    assert not output.exists()
    assert not list(Path(environment["TMPDIR"]).glob("mobileseg-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_generated_code(number: signal.Signals, code: int, tmp_path: Path) -> None:
    program = f"""
import sys
from mobileseg.interruption import watched
with watched() as interruption:
    try:
        exec("import signal; signal.raise_signal({int(number)})")
    except KeyboardInterrupt:
        pass
sys.exit(interruption.exit_code)
"""
    (tmp_path / "generated.py").write_text(program)
    ended = subprocess.run([sys.executable, "-m", "generated"], cwd=tmp_path, timeout=60, check=False)
    assert ended.returncode == code


def test_a_real_signal_while_several_targets_are_made(
    checkpoint: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """The workers are in no terminal's group: the first process ends them, and takes away what they had begun. Each
    target's line gets a signal: the second one comes while the first is being obeyed."""
    root, output = Path(__file__).resolve().parents[2], tmp_path / "out"
    command = [sys.executable, "-m", "mobileseg", "convert", str(checkpoint), "--to", "tflite,onnx", "--size", "64x64"]
    with subprocess.Popen(
        [*command, "--output", str(output)], cwd=root, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("Lower to"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert lines[-1] == f"{LINE}\n"
    assert "Traceback" not in "".join(lines)
    assert not output.exists()
    assert not list(Path(environment["TMPDIR"]).glob("mobileseg-*"))
