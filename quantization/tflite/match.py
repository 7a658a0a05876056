"""What a program's plan says, said of the tensors of the .tflite file that was made of the program.

The converter gives its tensors names of its own, takes operators together and moves them; their numbers tell which
value of the program each holds. What no value has the numbers of (the border that a padding adds) has its source's
range, or one observed on the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.quantization.prints import TOLERANCE, print_of
from mobileseg.quantization.ranges import extremes
from mobileseg.quantization.tflite.observe import observe, read
from mobileseg.quantization.tflite.operators import MOVES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mobileseg.quantization.prints import Known, Print
    from mobileseg.quantization.ranges import Range
    from mobileseg.quantization.tflite.flatbuffer import Graph


@dataclass(frozen=True)
class Matched:
    """By tensor index: ``ranges`` of those that are int8, ``floats``: those whose operator stays in float."""

    ranges: Mapping[int, Range]
    floats: frozenset[int]


def match(graph: Graph, content: bytes, known: Sequence[Known], picture: NDArray[np.uint8]) -> Matched:
    """``content``: the graph's file. ``picture``: (H, W, 3) uint8, on which the prints of ``known`` were taken."""
    by_size: dict[int, list[Known]] = {}
    for item in known:
        by_size.setdefault(item.print.size, []).append(item)
    ranges: dict[int, Range] = {}
    floats: set[int] = set()
    found = dict(read(content, picture, print_of))
    observed, producers = None, graph.producers()
    for tensor in (*graph.inputs, *(int(o) for operator in graph.operators for o in operator.outputs)):
        if tensor not in found:
            continue
        alike = _alike(found[tensor], by_size)
        if alike:
            _take(alike, tensor, ranges, floats)
            continue
        source = _source(graph, producers, tensor)
        if source is not None:
            if source in ranges:
                ranges[tensor] = ranges[source]
            if source in floats:
                floats.add(tensor)
            continue
        observed = observed or observe(content, [picture])[0]
        ranges[tensor] = extremes(observed[tensor])
    return Matched(ranges, frozenset(floats))


def _alike(wanted: Print, by_size: Mapping[int, list[Known]]) -> list[Known]:
    """Those nearest: one, or several with the same numbers in another order."""
    near = [(item.print.distance(wanted), item) for item in by_size.get(wanted.size, ())]
    least = min((distance for distance, _ in near), default=np.inf)
    return [item for distance, item in near if distance <= least + 1e-9] if least <= TOLERANCE else []


def _take(alike: Sequence[Known], tensor: int, ranges: dict[int, Range], floats: set[int]) -> None:
    known = [item.range for item in alike if item.range is not None]
    if known:
        ranges[tensor] = (min(low for low, _ in known), max(high for _, high in known))
    if any(item.is_float for item in alike):
        floats.add(tensor)


def _source(graph: Graph, producers: Mapping[int, Any], tensor: int) -> int | None:
    """Whose numbers an operator moves into this tensor."""
    producer = producers.get(tensor)
    if producer is None or graph.kind(producer) not in MOVES:
        return None
    return next((int(i) for i in producer.inputs if graph.is_float(int(i)) and graph.constant(int(i)) is None), None)
