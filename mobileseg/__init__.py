"""Real-time segmentation checkpoints to files that phones run, proven equal to the checkpoint."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobileseg.checkpoint import load_checkpoint
    from mobileseg.devices import set_up
    from mobileseg.diagnosis import doctor
    from mobileseg.inspection import inspect
    from mobileseg.pipeline import convert
    from mobileseg.prediction import predict
    from mobileseg.proving import validate
    from mobileseg.sensing import sensitivity

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "convert",
    "doctor",
    "inspect",
    "load_checkpoint",
    "predict",
    "sensitivity",
    "set_up",
    "validate",
]

# Looked up when first asked for, so that importing the package imports no torch.
_HOMES = {
    "convert": "mobileseg.pipeline",
    "doctor": "mobileseg.diagnosis",
    "inspect": "mobileseg.inspection",
    "load_checkpoint": "mobileseg.checkpoint",
    "predict": "mobileseg.prediction",
    "sensitivity": "mobileseg.sensing",
    "set_up": "mobileseg.devices",
    "validate": "mobileseg.proving",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mobileseg' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
