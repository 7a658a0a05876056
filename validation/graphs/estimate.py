"""Where a file's time goes, estimated from what its operators compute and move: a guess by which to rank them.

An operator takes as long as the longer of its arithmetic and its traffic on one machine, `PHONE_CORE`; a kind of kernel
that is slower than that, by as much as was measured. No cache is in that, no operator that a runtime fuses
with another, and no kernel that is worse than its neighbours: only a measurement tells milliseconds
(`mobileseg.validation.timings`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mobileseg.types import NotRun
from mobileseg.validation.graphs.base import Graph, Operation
from mobileseg.validation.graphs.rules import CONVOLUTIONS

COSTLIEST = 5
"""How many operators are named."""


@dataclass(frozen=True)
class Machine:
    """``macs_per_second``: by the type that is computed with; of float32 where a type is not named."""

    name: str
    macs_per_second: Mapping[str, float]
    bytes_per_second: float


PHONE_CORE = Machine(
    "one big core of a mid-range phone",
    # A Cortex-A76 at 2.2 GHz: two units of 4 float32, 8 float16 or (SDOT) 16 x 4 / 2 int8 products a cycle, 18, 35 and
    # 70 G/s at most, of which a good kernel gets six tenths; LPDDR4X gives one core about 10 GB/s.
    {"float32": 10e9, "float16": 20e9, "int8": 40e9, "uint8": 40e9},
    10e9,
)

# What takes longer than its traffic says: windows, interpolation and rows of few channels are computed number by number
# (LiteRT 2.3.0, x86, the demo networks at 256x512).
_PER_BYTE = {"depthwise convolution": 2.5, "padding": 3.0, "pooling": 2.5, "resizing": 4.0}

# How many times slower ExecuTorch's portable kernels are than XNNPACK's, by kind (1.5.1, x86, 32 x 128 x 256 float32:
# convolutions 14 of depthwise to 136, poolings and softmax 25 to 35, the others 1 to 15).
_PORTABLE = {**dict.fromkeys(CONVOLUTIONS, 100.0), "pooling": 30.0, "normalization": 30.0, "resizing": 15.0}
_PORTABLE_OTHERS = 4.0
# The same of LiteRT's own kernels, which run what XNNPACK leaves (2.3.0, x86: PADV2 12, of int8 AVERAGE_POOL_2D 10 and
# RELU 29).
_LEFT = 10.0


@dataclass(frozen=True)
class Coverage:
    """Which shares a delegate takes, 0 to 1: of the operators, the MACs, the bytes, the estimated time. None where
    there are none."""

    operators: float | None
    macs: float | None
    bytes: float | None
    time: float | None


@dataclass(frozen=True)
class OperatorCosts:
    """All operators of one name together. ``delegated``: how many of them a delegate takes; ``macs``, ``bytes``: of
    those that are known, None where none is; ``share``: of the estimated time, 0 to 1."""

    operator: str
    kind: str
    count: int
    delegated: int | None
    macs: int | None
    bytes: int | None
    share: float


@dataclass(frozen=True)
class Cost:
    """One operator of `Graph.operations`: its position there, and its share of the estimated time, 0 to 1."""

    operation: int
    share: float


@dataclass(frozen=True)
class Costs:
    """A file's operators together, as far as they are known; ``unknown_macs``, ``unknown_bytes``: how many are not, by
    operator. ``machine``: for what the time is estimated. ``operators``, ``costliest``: by that time."""

    machine: str
    macs: int
    bytes_read: int
    bytes_written: int
    unknown_macs: Mapping[str, int]
    unknown_bytes: Mapping[str, int]
    delegated: Coverage | NotRun
    operators: tuple[OperatorCosts, ...]
    costliest: tuple[Cost, ...]


def seconds(operation: Operation, machine: Machine = PHONE_CORE) -> float:
    """Estimated; what is not known of an operator takes no time."""
    rate = machine.macs_per_second.get(operation.dtype, machine.macs_per_second["float32"])
    products, traffic = _slowness(operation)
    arithmetic = (operation.macs or 0) / rate * products
    return max(arithmetic, (operation.bytes_moved or 0) / machine.bytes_per_second * traffic)


def _slowness(operation: Operation) -> tuple[float, float]:
    """How many times longer than the machine's an operator's arithmetic and its traffic take."""
    kind = _PER_BYTE.get(operation.kind, 1.0)
    if operation.portable:
        portable = _PORTABLE.get(operation.kind, _PORTABLE_OTHERS)
        return portable, portable * kind
    return (_LEFT, max(_LEFT, kind)) if operation.delegated is False else (1.0, kind)


def shares(operations: Sequence[Operation]) -> tuple[float, ...]:
    """Of the estimated time, 0 to 1 each; zeros where nothing is known."""
    times = [seconds(operation) for operation in operations]
    whole = math.fsum(times)
    return tuple(time / whole if whole else 0.0 for time in times)


def estimated(graph: Graph) -> Costs:
    operations = graph.operations
    times = [seconds(operation) for operation in operations]
    whole = math.fsum(times)
    ranked = sorted(range(len(operations)), key=lambda i: (-times[i], i))
    return Costs(
        machine=PHONE_CORE.name,
        macs=_known(o.macs for o in operations) or 0,
        bytes_read=_known(o.bytes_read for o in operations) or 0,
        bytes_written=_known(o.bytes_written for o in operations) or 0,
        unknown_macs=dict(Counter(o.operator for o in operations if o.macs is None)),
        unknown_bytes=dict(Counter(o.operator for o in operations if o.bytes_moved is None)),
        delegated=graph.delegation if isinstance(graph.delegation, NotRun) else _coverage(operations, times),
        operators=_by_operator(operations, times),
        costliest=tuple(Cost(i, times[i] / whole) for i in ranked[:COSTLIEST] if times[i]),
    )


def _coverage(operations: Sequence[Operation], times: Sequence[float]) -> Coverage:
    def share(values: Sequence[float | None]) -> float | None:
        whole = math.fsum(value or 0 for value in values)
        taken = math.fsum(value or 0 for o, value in zip(operations, values, strict=True) if o.delegated)
        return taken / whole if whole else None

    return Coverage(
        operators=share([1] * len(operations)),
        macs=share([o.macs for o in operations]),
        bytes=share([o.bytes_moved for o in operations]),
        time=share(times),
    )


def _by_operator(operations: Sequence[Operation], times: Sequence[float]) -> tuple[OperatorCosts, ...]:
    whole = math.fsum(times)
    found: dict[str, list[int]] = {}
    for position, operation in enumerate(operations):
        found.setdefault(operation.operator, []).append(position)
    rows = []
    for name, positions in found.items():
        group = [operations[i] for i in positions]
        flags = [o.delegated for o in group]
        rows.append(
            OperatorCosts(
                operator=name,
                kind=group[0].kind,
                count=len(group),
                delegated=None if None in flags else sum(map(bool, flags)),
                macs=_known(o.macs for o in group),
                bytes=_known(o.bytes_moved for o in group),
                share=math.fsum(times[i] for i in positions) / whole if whole else 0.0,
            )
        )
    return tuple(sorted(rows, key=lambda row: (-row.share, -row.count, row.operator)))


def _known(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
