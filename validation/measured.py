"""What an artifact's operators take, measured, beside what was estimated of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mobileseg.types import NotRun
from mobileseg.validation.graphs import Graph
from mobileseg.validation.graphs.estimate import COSTLIEST, shares
from mobileseg.validation.timings import Kind, Timed, time_operators

NOT_ASKED = NotRun("it was not asked for (--time measures it)")


@dataclass(frozen=True)
class MeasuredCost:
    """One operator of `Timed.operators`: its position there, its ms, and its share of all operators' time (0 to 1).

    ``operation``: its position in `Graph.operations`; None where the runtime made it of others. ``estimated``: its
    share of the estimated time (0 to 1).
    """

    operator: int
    operation: int | None
    ms: float
    share: float
    estimated: float | None


@dataclass(frozen=True)
class Measured:
    """``kinds``, ``costliest``: by measured time."""

    timed: Timed
    kinds: tuple[Kind, ...]
    costliest: tuple[MeasuredCost, ...]


def measure(path: Path, graph: Graph, runs: int) -> Measured | NotRun:
    """Time the operators of a file that is known to load. Raises what `time_operators` raises."""
    timed = time_operators(path, runs)
    return timed if isinstance(timed, NotRun) else measured(graph, timed)


def measured(graph: Graph, timed: Timed) -> Measured:
    estimates, operations, whole = shares(graph.operations), matches(graph, timed), timed.sum_ms
    ranked = sorted(range(len(timed.operators)), key=lambda i: (-timed.operators[i].ms, i))
    return Measured(
        timed=timed,
        kinds=timed.kinds,
        costliest=tuple(
            MeasuredCost(
                operator=i,
                operation=(operation := operations[i]),
                ms=(ms := timed.operators[i].ms),
                share=ms / whole,
                estimated=None if operation is None else estimates[operation],
            )
            for i in ranked[:COSTLIEST]
            if timed.operators[i].ms
        ),
    )


def matches(graph: Graph, timed: Timed) -> tuple[int | None, ...]:
    """Of each timed operator the position in `Graph.operations`: the same one where both list the same operators, else
    the only one of its name and kind. ONNX Runtime joins operators, and adds some."""
    if [o.operator for o in graph.operations] == [o.operator for o in timed.operators]:
        return tuple(range(len(timed.operators)))
    keys = [(o.operator, o.name) for o in graph.operations]
    counts = Counter(keys)
    places = {key: i for i, key in enumerate(keys) if counts[key] == 1}
    return tuple(places.get((o.operator, o.name)) for o in timed.operators)
