"""The demo: procedural street scenes, and two small networks trained on them, so that everything can be tried at once.

Needs NumPy only; what the networks are and how they were trained stands in `train`, their figures in ``results.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mobileseg.mobile_assets.demo.scenes import CLASS_NAMES, Scene, scene
from mobileseg.types import Size

SIZE: Size = (256, 512)
"""Height and width that the demo networks were trained for."""

CALIBRATION_SEEDS = range(0, 1_000)
EVALUATION_SEEDS = range(10_000, 10_200)
PROGRESS_SEEDS = range(20_000, 20_016)
"""Scenes on which training reports its progress."""
TRAINING_SEEDS = range(1_000_000, 2_000_000)


@dataclass(frozen=True)
class DemoNetwork:
    """One of the trained networks. ``weights``: a safetensors file that `mobileseg.checkpoint` recognises."""

    name: str
    architecture: str
    variant: str
    weights: Path
    size: Size = SIZE
    classes: str = "demo"


_HERE = Path(__file__).parent

DEMO: Mapping[str, DemoNetwork] = MappingProxyType(
    {
        "enet": DemoNetwork("enet", "enet", "davidtvs", _HERE / "enet.safetensors"),
        "espnetv2": DemoNetwork("espnetv2", "espnetv2", "2018", _HERE / "espnetv2.safetensors"),
    }
)


def scenes(seeds: Sequence[int], size: Size = SIZE) -> list[Scene]:
    """The labelled scenes of ``seeds``, for calibration (`CALIBRATION_SEEDS`) or evaluation (`EVALUATION_SEEDS`)."""
    return [scene(seed, size) for seed in seeds]


def pictures(count: int, size: Size = SIZE, first_seed: int = CALIBRATION_SEEDS.start) -> list[NDArray[np.uint8]]:
    """``count`` pictures ``(H, W, 3) uint8`` RGB without their labels, of the seeds from ``first_seed`` on."""
    return [scene(seed, size).picture for seed in range(first_seed, first_seed + count)]


__all__ = [
    "CALIBRATION_SEEDS",
    "CLASS_NAMES",
    "DEMO",
    "EVALUATION_SEEDS",
    "PROGRESS_SEEDS",
    "SIZE",
    "TRAINING_SEEDS",
    "DemoNetwork",
    "Scene",
    "pictures",
    "scene",
    "scenes",
]
