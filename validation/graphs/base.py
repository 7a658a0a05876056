"""What a reader of one artifact kind finds in its graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mobileseg.types import NotRun

NO_PLAN = NotRun("the file holds no memory plan: its runtime makes one when it loads")

ONE_PICTURE = "The file takes any number of pictures; costs are those of one."
ANY_SIZE = "The file takes pictures of more than one size: what depends on the size is not counted."


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


Shape = tuple[int | None, ...] | None
"""Of a tensor; None for a length, or for all, that is known at run time only."""


@dataclass(frozen=True)
class Operation:
    """One operator. ``name``: what a person finds it by; ``operator``: in the file's own words (``CONV_2D``, ``Conv``,
    ``conv``); ``kind``: in ours (`mobileseg.validation.graphs.rules`).

    ``shape``: of its first result, in the file's own layout; ``dtype``: of what it computes with. ``macs``,
    ``bytes_read``, ``bytes_written``: as `mobileseg.validation.graphs.costs` counts them, None where they are not
    known. ``delegated``: whether a delegate runs it, None where the device decides that. ``portable``: whether one of
    ExecuTorch's portable kernels runs it, which are written to be right and not to be fast.
    """

    name: str
    operator: str
    kind: str
    shape: Shape
    dtype: str
    macs: int | None
    bytes_read: int | None
    bytes_written: int | None
    delegated: bool | None
    portable: bool = False

    @property
    def bytes_moved(self) -> int | None:
        """Read and written; None where one is not known."""
        if self.bytes_read is None or self.bytes_written is None:
            return None
        return self.bytes_read + self.bytes_written


@dataclass(frozen=True)
class Peak:
    """The most bytes of values that are alive at once, and at which operation (its position) that is."""

    bytes: int
    operation: int


@dataclass(frozen=True)
class Graph:
    """``operators``: how many of each there are, the most frequent first. ``weight_bytes``: of all constants, each
    counted once. ``layers``: those that own constants, the largest first. ``quantization``: how tensors are stored,
    by type: ``{"float32": 12, "int8 per channel": 60}`` counts constants. ``planned_bytes``: what the file's memory
    plan reserves for tensors between operators; a delegate's own memory is not in it. ``oldest_runtime``: the first
    release that runs the file, by its operators' versions; None for kinds of files that have none.

    ``operations``: every operator in the order in which the file runs them, those inside a delegate's calls among them
    as far as they can be read. ``peak``: of the values between them, counted by when each is last read: what the best
    memory plan needs. ``notes``: what the counts rest on.
    """

    operators: Mapping[str, int]
    weight_bytes: int
    layers: tuple[Layer, ...]
    quantization: Mapping[str, int]
    delegation: Delegation | NotRun
    operations: tuple[Operation, ...]
    peak: Peak | NotRun
    planned_bytes: int | NotRun = NO_PLAN
    oldest_runtime: str | NotRun | None = None
    notes: tuple[str, ...] = ()


def counted(names: Iterable[str]) -> dict[str, int]:
    """How often each occurs, the most frequent first."""
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def largest_first(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """By bytes, then by name."""
    return tuple(sorted(layers, key=lambda layer: (-layer.bytes, layer.name)))
