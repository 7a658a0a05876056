"""Core ML packages: not timed."""

from __future__ import annotations

from pathlib import Path

from mobileseg.types import NotRun


def time_operators(path: Path, runs: int = 30) -> NotRun:
    """What runs a package away from Apple's systems is slow, and another thing than what runs it there."""
    del path, runs
    return NotRun(
        "Core ML runs on Apple's systems alone, and tells its operators' times to Xcode: open the package there, "
        "Performance, and make a report on a connected device"
    )
