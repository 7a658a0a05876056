"""Which release of TensorFlow Lite first ran a file's operators, by their versions.

The table is that of TensorFlow's converter (tensorflow/lite/tools/versioning/runtime_version.cc), for the operators
that files of these networks hold: release by release, and as of it the greatest version of each operator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobileseg.types import NotRun

if TYPE_CHECKING:
    from collections.abc import Iterable

SINCE: dict[str, tuple[tuple[int, str], ...]] = {
    "ADD": ((1, "1.5"), (2, "1.14"), (3, "2.4"), (4, "2.6")),
    "ARG_MAX": ((1, "1.9"), (2, "1.14"), (3, "2.9")),
    "AVERAGE_POOL_2D": ((1, "1.5"), (2, "1.14"), (3, "2.3")),
    "BATCH_MATMUL": ((2, "2.3"), (3, "2.4"), (4, "2.5")),
    "CAST": ((1, "1.5"), (2, "2.7"), (3, "2.8"), (4, "2.9")),
    "CEIL": ((1, "1.14"),),
    "CONCATENATION": ((1, "1.5"), (2, "1.14"), (3, "2.3")),
    "CONV_2D": ((1, "1.5"), (3, "1.14"), (4, "2.3"), (5, "2.4"), (6, "2.9")),
    "DEPTHWISE_CONV_2D": ((1, "1.5"), (2, "1.12"), (3, "1.14"), (4, "2.2"), (6, "2.3")),
    "DEPTH_TO_SPACE": ((1, "2.1"), (2, "2.5")),
    "DEQUANTIZE": ((1, "1.13"), (2, "1.14"), (3, "1.15"), (4, "2.2"), (5, "2.7")),
    "FULLY_CONNECTED": ((1, "1.5"), (2, "1.10"), (4, "1.14"), (5, "2.0"), (6, "2.1"), (9, "2.3")),
    "LEAKY_RELU": ((1, "1.13"), (2, "2.3")),
    "LOGISTIC": ((2, "1.14"), (3, "2.3")),
    "MAXIMUM": ((2, "1.14"), (4, "2.3")),
    "MAX_POOL_2D": ((1, "1.5"), (2, "1.14"), (3, "2.3")),
    "MEAN": ((1, "1.6"), (2, "1.14"), (3, "2.4")),
    "MINIMUM": ((2, "1.14"), (4, "2.3")),
    "MUL": ((1, "1.5"), (2, "1.14"), (3, "1.15"), (4, "2.3"), (5, "2.6")),
    "PAD": ((1, "1.5"), (2, "1.14"), (3, "2.4"), (4, "2.6")),
    "PADV2": ((1, "1.9"), (2, "1.14"), (3, "2.4"), (4, "2.6")),
    "PRELU": ((1, "1.8"),),
    "QUANTIZE": ((1, "1.14"), (2, "1.15"), (3, "2.7")),
    "RELU": ((1, "1.5"), (2, "2.1"), (3, "2.5")),
    "RESHAPE": ((1, "1.5"),),
    "RESIZE_BILINEAR": ((1, "1.7"), (2, "1.14"), (3, "2.2"), (4, "2.5")),
    "RESIZE_NEAREST_NEIGHBOR": ((1, "1.13"), (2, "1.14"), (3, "2.3"), (4, "2.4")),
    "SLICE": ((3, "1.14"), (4, "2.4"), (5, "2.5")),
    "SOFTMAX": ((1, "1.5"), (2, "1.14"), (3, "2.3")),
    "SPACE_TO_DEPTH": ((1, "1.5"), (2, "1.14")),
    "STRIDED_SLICE": ((1, "1.6"), (2, "1.14"), (3, "2.1"), (4, "2.2"), (5, "2.5"), (6, "2.6")),
    "SUB": ((1, "1.6"), (2, "1.14"), (3, "2.3"), (5, "2.4")),
    "TILE": ((1, "1.10"), (2, "2.2"), (3, "2.8")),
    "TRANSPOSE": ((1, "1.6"), (2, "1.14"), (3, "1.15"), (4, "2.3"), (5, "2.4")),
    "TRANSPOSE_CONV": ((1, "1.9"), (2, "2.2"), (3, "2.3")),
}


def oldest_runtime(operators: Iterable[tuple[str, int]]) -> str | NotRun:
    """``"TensorFlow Lite 2.5 (DEPTH_TO_SPACE, version 2)"``: the first release that has all of these (operator,
    version), and the ones that it first had; `NotRun` for one that is not in the table."""
    asked = sorted(set(operators))
    first = {(name, version): _first(name, version) for name, version in asked}
    unknown = [f"{name}, version {version}" for (name, version), release in first.items() if release is None]
    if unknown or not first:
        return NotRun(f"no release is known for {'; '.join(unknown) or 'a file without operators'}")
    latest = max((r for r in first.values() if r is not None), key=_as_numbers)
    newest = [f"{name}, version {version}" for (name, version), release in first.items() if release == latest]
    return f"TensorFlow Lite {latest} ({'; '.join(newest)})"


def _first(name: str, version: int) -> str | None:
    return next((release for known, release in SINCE.get(name, ()) if known >= version), None)


def _as_numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))
