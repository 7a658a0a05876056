"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# As many processes as cores already, and tiny tensors. Read when PyTorch and NumPy are imported, here and in children.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from mobileseg.quick_graphs import quick_graphs


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real checkpoints and labelled pictures, which is not part of the repository."""
    folder = Path(os.environ.get("MOBILESEG_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "checkpoints").is_dir():
        pytest.skip("real checkpoints and pictures are not here (set MOBILESEG_SHARED to their folder)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _quick_graphs() -> Iterator[None]:
    """Tests convert hundreds of networks by parts of what `mobileseg.making` does in this context."""
    with quick_graphs():
        yield
