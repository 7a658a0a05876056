"""In which order units are kept in float.

A unit in float takes the rounding of its value away only where all that read the value are in float, too: an int8
reader rounds it. So a value is freed together: the unit that computes it and those that read it, as far as they are not
in float already. Next comes always what frees most error for the cost that it adds; a unit that is added frees the
other values that it was the last to hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mobileseg.quantization.program.plan import readers_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch.fx import Node

    from mobileseg.quantization.program.values import Values


def freeing_order(
    values: Values, units: Sequence[tuple[Node, ...]], errors: Sequence[float], costs: Sequence[float]
) -> list[int]:
    """All units by their number: those of the first values to free first, the readers of each behind it.

    ``errors``: of each unit's own rounding; ``costs``: of its computation.
    """
    state = _Freed(_readers(values, units), errors, costs)
    order: list[int] = []
    waiting = set(range(len(units)))
    while waiting:
        # The first of equals, in the program's order.
        best = max(sorted(waiting), key=state.gain)
        order += state.add(best)
        waiting -= state.freed
    return order


def _readers(values: Values, units: Sequence[tuple[Node, ...]]) -> list[frozenset[int]]:
    """The units that read what each computes, wherever it is moved."""
    unit_of: Mapping[Node, int] = {node: number for number, unit in enumerate(units) for node in unit}
    rounded = frozenset(values.rounded)
    return [
        frozenset(unit_of[reader] for node in unit if node in rounded for reader in readers_of(values, node))
        for unit in units
    ]


@dataclass
class _Freed:
    """``floats``: units in float so far; ``freed``: those whose value nothing rounds."""

    readers: Sequence[frozenset[int]]
    errors: Sequence[float]
    costs: Sequence[float]
    floats: set[int] = field(default_factory=set)
    freed: set[int] = field(default_factory=set)

    def gain(self, unit: int) -> float:
        """Error that freeing a unit's value takes away, for the cost that it adds."""
        added = self._needed(unit)
        error = sum(self.errors[n] for n in self._then_freed(unit, added))
        cost = sum(self.costs[n] for n in added)
        return error / cost if cost > 0.0 else float("inf")

    def add(self, unit: int) -> list[int]:
        """Free it; the units that are put into float for it."""
        added = self._needed(unit)
        freed = self._then_freed(unit, added)
        self.floats.update(added)
        self.freed.update(freed)
        return added

    def _needed(self, unit: int) -> list[int]:
        return [n for n in (unit, *sorted(self.readers[unit] - {unit})) if n not in self.floats]

    def _then_freed(self, unit: int, added: Iterable[int]) -> set[int]:
        floats = self.floats | set(added)
        near = {unit, *added}.union(*(self._sources[n] for n in added))
        return {n for n in near - self.freed if n in floats and self.readers[n] <= floats}

    def __post_init__(self) -> None:
        self._sources: list[set[int]] = [set() for _ in self.readers]
        for unit, readers in enumerate(self.readers):
            for reader in readers:
                self._sources[reader].add(unit)
