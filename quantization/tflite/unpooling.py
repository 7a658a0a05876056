"""Max-unpooling in int8: masks and products of the rewritten network, so that each window still writes its value once.

The float graph finds which elements of a pooling window are below its maximum m, and hands y down the positions:

    n_k = ceil(min(m - x_k, 1))     0.0 at a maximum, else 1.0
    rest = rest * n_k, part = the rest before - the rest after

Quantized tensor by tensor this breaks: a small difference becomes 0 (two positions of a window get y), CEIL has no int8
kernel, and each product and difference rounds on its own, so that y leaks into places that must hold 0.
Here every step is exact:

    d_k = m - x_k     m and x_k have one scale s, d_k gets the same with zero point -128: its 256 levels hold every
                      difference of two int8 numbers
    n_k = d_k * (1/s) one level is 1.0, and there the output (scale 1/255, zero point -128) ends: larger differences
                      saturate
    rest, part        keep y's scale and zero point: rest * 0.0 and rest * 1.0 are exact, and so are the differences

So the first maximum *of the int8 tensor* is selected, as torch would on these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mobileseg.quantization.tflite.operators import MOVES

if TYPE_CHECKING:
    from collections.abc import Collection

    from mobileseg.quantization.tflite.flatbuffer import Graph


@dataclass(frozen=True)
class Unpooling:
    """``differences``: tensor d_k -> m. ``ceilings``: id of the CEIL operator that gives n_k -> d_k.
    ``skipped``: ids of the MINIMUM operators between. ``flags``: tensors of zeros and ones.
    ``alike``: pairs of tensors that must have one scale.
    """

    differences: dict[int, int] = field(default_factory=dict)
    ceilings: dict[int, int] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    flags: set[int] = field(default_factory=set)
    alike: list[tuple[int, int]] = field(default_factory=list)


def find_unpooling(graph: Graph, floats: Collection[int] = ()) -> Unpooling:
    """The masks of the graph, and what is computed with them. Empty where the network unpools nothing.

    Masks whose operators (by id) are among ``floats`` are zeros and ones as they are.
    """
    found = Unpooling()
    users, producers = graph.users(), graph.producers()
    for operator in graph.operators:
        chain = _mask_chain(graph, operator, users, producers)
        if chain is not None and id(operator) in floats:
            found.flags.add(int(operator.outputs[0]))
        elif chain is not None:
            subtraction, minimum = chain
            m, x = (int(i) for i in subtraction.inputs)
            difference = int(subtraction.outputs[0])
            found.differences[difference] = m
            found.ceilings[id(operator)] = difference
            found.skipped.add(id(minimum))
            found.flags.add(int(operator.outputs[0]))
            found.alike.append((m, x))
    if found.flags:
        _follow(graph, found, producers)
    return found


def _mask_chain(graph: Graph, ceil: Any, users: dict[int, int], producers: dict[int, Any]) -> tuple[Any, Any] | None:
    """The SUB and MINIMUM of ceil(min(m - x, 1)), each used here alone."""
    if graph.kind(ceil) != "CEIL":
        return None
    minimum = producers.get(int(ceil.inputs[0]))
    if minimum is None or graph.kind(minimum) != "MINIMUM" or users[int(minimum.outputs[0])] != 1:
        return None
    for operand, limit in (minimum.inputs, minimum.inputs[::-1]):
        one = graph.constant(int(limit))
        subtraction = producers.get(int(operand))
        if one is None or one.size != 1 or float(one.reshape(-1)[0]) != 1.0 or subtraction is None:
            continue
        if graph.kind(subtraction) == "SUB" and users[int(operand)] == 1:
            return subtraction, minimum
    return None


def _follow(graph: Graph, found: Unpooling, producers: dict[int, Any]) -> None:
    """Extend the flags, and collect the tensors that hold a value of y or nothing."""
    selections: set[int] = set()
    for operator in graph.operators:
        kind = graph.kind(operator)
        sources = [int(i) for i in operator.inputs if graph.is_float(int(i))]
        result = int(operator.outputs[0])
        if kind in MOVES:
            for group in (found.flags, selections):
                if sources and all(i in group for i in sources):
                    group.add(result)
        elif kind == "MUL" and len(sources) == 2:
            value, flag = sources if sources[1] in found.flags else sources[::-1]
            if flag in found.flags:
                _derive(found, selections, result, value)
        elif kind == "SUB" and len(sources) == 2:
            value, taken = sources
            one = graph.constant(value)
            if taken in found.flags and one is not None and bool((one == 1.0).all()):
                found.flags.add(result)
            elif _is_part(graph, producers.get(taken), value, found.flags):
                _derive(found, selections, result, value)
        elif kind == "ADD" and len(sources) == 2 and all(i in selections for i in sources):
            found.alike.extend((result, i) for i in sources)
            selections.add(result)


def _is_part(graph: Graph, producer: Any, value: int, flags: set[int]) -> bool:
    """Whether the producer is MUL(value, a flag)."""
    if producer is None or graph.kind(producer) != "MUL":
        return False
    a, b = (int(i) for i in producer.inputs)
    return (a == value and b in flags) or (b == value and a in flags)


def _derive(found: Unpooling, selections: set[int], result: int, value: int) -> None:
    if value in found.flags:
        found.flags.add(result)
    else:
        found.alike.append((result, value))
        selections.add(result)
