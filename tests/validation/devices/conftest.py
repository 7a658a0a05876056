"""Programs that are not what they are called, and a worker without an emulator."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mobileseg.validation.devices import arm64_worker
from mobileseg.validation.devices.worker import Worker, start

Programs = Callable[..., Path]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A factory: the only programs that are found are a shell and those given, by name, as what a shell would run."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(folder))

    def make(**bodies: str) -> Path:
        for name, body in bodies.items():
            path = folder / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(0o755)
        return folder

    return make


@pytest.fixture
def start_here() -> Callable[..., Worker]:
    """A factory of workers that run in this machine's own Python."""

    def start_it(*words: str, environment: dict[str, str] | None = None) -> Worker:
        command = (sys.executable, "-P", arm64_worker.__file__, *words)
        return start("Running the file here", command, {**os.environ, **(environment or {})})

    return start_it
