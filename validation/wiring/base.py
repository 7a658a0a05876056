"""What the readers of all kinds of files give: operators, and the values between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """A tensor. ``dtype``: in the file's own words. ``scale``, ``zero_point``: of a value quantized as a whole."""

    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Operator:
    """``kind``: in the file's own words, or in the delegate's (``RESHAPE``, ``Transpose``, ``StaticTranspose``).
    ``name``: what a person finds it by. ``inputs``: keys of the values that it reads, constants left out; ``outputs``:
    of those that it gives. ``order``: of the axes, where it transposes.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Wiring:
    """``operators`` in the order of execution; ``values`` by key, those that no operator gives may be left out;
    ``outputs``: keys of what the file gives."""

    operators: tuple[Operator, ...]
    values: Mapping[str, Value]
    outputs: tuple[str, ...]
