"""What starting costs, and the Python API that the package offers."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
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


def test_help_answers_in_under_300_ms() -> None:
    """The median of ten, less what an idle Python takes beyond 20 ms, which is the machine's doing."""
    helped, idle = (
        statistics.median(seconds([sys.executable, *arguments]) for _ in range(10))
        for arguments in (["-m", "mobileseg", "--help"], ["-c", "pass"])
    )
    assert helped - max(0.0, idle - 0.02) < 0.3


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def test_the_api() -> None:
    names = ["__version__", "convert", "doctor", "inspect", "load_checkpoint", "predict", "set_up", "validate"]
    assert mobileseg.__all__ == names
    for name in mobileseg.__all__:
        assert name in dir(mobileseg)
        assert getattr(mobileseg, name)
    assert mobileseg.convert.__module__ == "mobileseg.pipeline"
    with pytest.raises(AttributeError, match="profile"):
        getattr(mobileseg, "profile")  # noqa: B009
