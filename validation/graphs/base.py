"""What a reader of one artifact kind finds in its graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mobileseg.types import NotRun

NO_PLAN = NotRun("the file holds no memory plan: its runtime makes one when it loads")


@dataclass(frozen=True)
class Delegation:
    """What a delegate takes of a graph.

    ``operators``: how many of each it takes; ``partitions``: in how many pieces it runs them; ``left``: why it leaves
    an operator, by the operator's name, where that is known.
    """

    name: str
    operators: Mapping[str, int]
    partitions: int
    left: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """One operator that owns constants. ``bytes``: of those constants as stored; ``dtype``: of the largest."""

    name: str
    operator: str
    dtype: str
    bytes: int


@dataclass(frozen=True)
class Graph:
    """``operators``: how many of each there are, the most frequent first. ``weight_bytes``: of all constants, each
    counted once. ``layers``: those that own constants, the largest first. ``quantization``: how tensors are stored,
    by type: ``{"float32": 12, "int8 per channel": 60}`` counts constants. ``planned_bytes``: what the file's memory
    plan reserves for tensors between operators; a delegate's own memory is not in it.
    """

    operators: Mapping[str, int]
    weight_bytes: int
    layers: tuple[Layer, ...]
    quantization: Mapping[str, int]
    delegation: Delegation | NotRun
    planned_bytes: int | NotRun = NO_PLAN


def counted(names: Iterable[str]) -> dict[str, int]:
    """How often each occurs, the most frequent first."""
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def largest_first(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """By bytes, then by name."""
    return tuple(sorted(layers, key=lambda layer: (-layer.bytes, layer.name)))
