"""What starting costs, and the Python API that the package offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mobileseg

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "rich", "numpy", "onnx", "onnxruntime", "litert_torch", "ai_edge_litert", "PIL")


@pytest.mark.parametrize(
    "code",
    ["import mobileseg", "import mobileseg.cli", "from mobileseg.cli import main; main(['--help'])"],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    script = f"import sys\n{code}\nprint([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_the_api() -> None:
    names = ["__version__", "convert", "doctor", "inspect", "load_checkpoint", "predict", "sensitivity", "set_up"]
    assert mobileseg.__all__ == [*names, "validate"]
    for name in mobileseg.__all__:
        assert name in dir(mobileseg)
        assert getattr(mobileseg, name)
    assert mobileseg.convert.__module__ == "mobileseg.pipeline"
    with pytest.raises(AttributeError, match="profile"):
        getattr(mobileseg, "profile")  # noqa: B009
