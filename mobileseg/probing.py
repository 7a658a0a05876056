"""Does an int8 file compute what its plan was simulated to? Run on the same pictures, it must lose no more pixels.

What the simulation cannot know (kernels that round otherwise) moves a few pixels to and fro. What it does not know
(a runtime that changes the graph, a number that overflows) loses many, and no other check tells the two apart: the
network's own loss in int8 hides it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mobileseg.types import NotRun

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mobileseg.converters.export import RewrittenProgram
    from mobileseg.sources import PictureSource
    from mobileseg.types import Int8Findings, Int8Recipe, Quantized
    from mobileseg.validation.runners.base import Runner

MORE = 1.5
"""How many times as many changed pixels as simulated are too many, ..."""

AT_LEAST = 0.005
"""... where they are at least this share more."""


class Asked(Protocol):
    """What is needed of a `mobileseg.making.Task`."""

    @property
    def path(self) -> Path: ...
    @property
    def calibration(self) -> PictureSource: ...
    @property
    def recipe(self) -> Int8Recipe: ...


def probed(quantized: Quantized | NotRun, rewritten: RewrittenProgram, asked: Asked) -> Quantized | NotRun:
    """With what the file at ``asked.path`` keeps of the probes' pixels, where a plan was made of it, and a warning
    where that is far less than simulated."""
    if isinstance(quantized, NotRun) or quantized.int8 is None:
        return quantized
    from mobileseg.quantization.program import exact_classes, probes_of
    from mobileseg.validation.runners import open_artifact

    runner, equal, total = open_artifact(asked.path), 0, 0
    for picture in probes_of(asked.calibration.pictures, asked.recipe):
        exact = exact_classes(rewritten.module, picture)
        found = _classes(runner, np.repeat(picture[None], len(exact), axis=0))
        equal, total = equal + int((found == exact).sum()), total + exact.size
    agreement = equal / total
    findings = replace(quantized.int8, file_agreement=agreement)
    if differs(findings.agreement, agreement):
        findings = replace(findings, warnings=(_warning(findings, agreement), *findings.warnings))
    return replace(quantized, int8=findings)


def differs(simulated: float, found: float) -> bool:
    """Whether a file's share of equal pixels is not the simulated one."""
    return simulated - found >= AT_LEAST and 1.0 - found >= MORE * (1.0 - simulated)


def _warning(findings: Int8Findings, agreement: float) -> str:
    return (
        f"The file keeps {100 * agreement:.2f} % of the mirrored calibration pictures' pixels, and should "
        f"{100 * findings.agreement:.2f} %: its runtime computes something "
        "otherwise. `mobileseg validate FILE --against CHECKPOINT --bisect` says where."
    )


def _classes(runner: Runner, pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
    result = runner.run(pictures)
    return result if runner.head == "argmax" else result.argmax(axis=1)
