"""A tiny network, one real conversion of it, and the command line run in this process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mobileseg.architectures.erfnet import ERFNet
from mobileseg.cli import main
from mobileseg.converters.target import Target

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended, what it printed, and what it left in its temporary folder."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return self.json["error"]


Run = Callable[..., Ended]


@pytest.fixture(scope="session")
def small_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = ERFNet(3, channels=(6, 8, 12), blocks=(1, 1), decoder_channels=(6, 6), decoder_blocks=(1, 1))
    return dict(network.state_dict())


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, small_state: dict[str, torch.Tensor]) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    torch.save(small_state, path)
    return path


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For a child process: its own temporary folder, one thread, 80 columns."""
    temporary = tmp_path_factory.mktemp("temporary")
    return {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


@pytest.fixture(scope="session")
def converted(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, environment: dict[str, str]
) -> tuple[Ended, Path]:
    """One real conversion to ONNX in a process of its own, and the folder of its files."""
    output = tmp_path_factory.mktemp("converted") / "made" / "here"
    command = [sys.executable, "-m", "mobileseg", "convert", str(checkpoint), "--to", "onnx", "--size", "64x64"]
    options = ["--image-count", "2", "--json", "--output", str(output)]
    done = subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr), output


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`main` in this process, in an empty folder."""
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run_main(*arguments: str | Path) -> Ended:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run_main


@pytest.fixture
def quick_onnx(monkeypatch: pytest.MonkeyPatch, converted: tuple[Ended, Path]) -> Target:
    """The ONNX target with its lowering, which takes seconds, replaced by a copy of the file it made before."""
    from mobileseg.converters import onnx

    made = converted[1] / "small.fp32.onnx"

    def copy(rewritten: object, lowering: object, path: Path) -> None:
        shutil.copy(made, path)

    quick = replace(onnx.TARGET, lower=copy)
    monkeypatch.setattr(onnx, "TARGET", quick)
    return quick
