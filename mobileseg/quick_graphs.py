"""Conversions in two thirds of the time, with the same files: what torch's graphs cost beside the work on them.

A conversion traces its graph some twenty times. With every step torch copies the whole history of each node, which
grows by one step each time, where a reference does: nothing writes into it (`torch.fx.traceback.NodeSource`, for which
it calls ``copy.deepcopy``). And Python looks through millions of small objects for cycles, every 700 of them.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

_OBJECTS = (100_000, 10, 10)
"""New objects between two searches for cycles among the youngest; how many of these searches before one among the
older."""

_BY_REFERENCE = SimpleNamespace(copy=copy.copy, deepcopy=list)


@contextmanager
def quick_graphs() -> Iterator[None]:
    """While the context lasts, in this process. Contexts may be nested."""
    import torch.fx.traceback

    traceback: Any = torch.fx.traceback
    thresholds, copier = gc.get_threshold(), traceback.copy
    traceback.copy = _BY_REFERENCE
    gc.set_threshold(*_OBJECTS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        traceback.copy = copier
