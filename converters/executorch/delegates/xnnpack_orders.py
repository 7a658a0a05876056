"""In which orders of its axes an operator of XNNPACK's graph may compute, and how it is written then.

An order is a permutation: a value that is stored in it has, as its axis i, axis ``order[i]`` of what the graph means.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

Order = tuple[int, ...]

ABSENT = 0xFFFFFFFF
"""XNNPACK's number of no value."""

TRANSPOSITION, RESHAPE, SLICE = "XNNStaticTranspose", "XNNStaticReshape", "XNNStaticSlice"
_PAD = "XNNStaticConstantPad"
_CONCATENATIONS = ("XNNConcatenate2", "XNNConcatenate3", "XNNConcatenate4", "XNNConcatenate5")
_ELEMENTWISE = {
    f"XNN{name}"
    for name in (
        *("Abs", "Ceiling", "Clamp", "Convert", "Copy", "Cos", "ELU", "Exp", "Floor", "Gelu", "Hardswish"),
        *("LeakyReLU", "Log", "Negate", "ReciprocalSquareRoot", "Sigmoid", "Sin", "Square", "SquareRoot", "Tanh"),
        *("Add", "Div", "Maximum", "Minimum", "Multiply", "Subtract"),
    )
}
# Numbers that are quantized row by row as they come, or packed: their last axis stays where it is.
_ROWWISE = ("xnn_datatype_qdint8", "xnn_datatype_qpint8", "xnn_datatype_pfp32")


def tensor(value: Any) -> Any:
    """What a value with and one without quantization have in common: an ``XNNTensorValue``."""
    return getattr(value.xvalue_union, "tensor_value", value.xvalue_union)


def kind(node: Any) -> str:
    """The name of an operator's class."""
    return type(node.xnode_union).__name__


def links(node: Any) -> Iterator[tuple[str, int]]:
    """The values that an operator names: its fields ``input_id``, ``filter_id``, ``output_id``, ..."""
    union = node.xnode_union
    for field in fields(union):
        if field.name.endswith("_id") and getattr(union, field.name) != ABSENT:
            yield field.name, getattr(union, field.name)


def inputs(node: Any) -> list[tuple[str, int]]:
    found = [link for link in links(node) if not link[0].startswith("output")]
    # ExecuTorch leaves the places that a concatenation of fewer has not.
    return found[: int(kind(node)[-1])] if kind(node) in _CONCATENATIONS else found


def outputs(node: Any) -> list[tuple[str, int]]:
    return [link for link in links(node) if link[0].startswith("output")]


def identity(rank: int) -> Order:
    return tuple(range(rank))


def compose(first: Order, second: Order) -> Order:
    """Permuted by ``first`` and then by ``second``."""
    return tuple(first[axis] for axis in second)


def inverse(order: Order) -> Order:
    return tuple(order.index(axis) for axis in range(len(order)))


def permuted(items: Sequence[Any], order: Order) -> list[Any]:
    return [items[axis] for axis in order]


def in_memory(order: Order, dims: Sequence[int]) -> Order:
    """The order without axes of one element, which are nowhere in memory: where two are the same, a value in one of
    them is a reshape of the other."""
    return tuple(axis for axis in order if dims[axis] != 1)


@dataclass(frozen=True)
class Freedom:
    """The blocks of axes, of the inputs and of the output, that an operator can put in any order; the axes of a block
    stay together. What it computes in an order is what it computes otherwise, in that order."""

    inputs: tuple[Order, ...]
    outputs: tuple[Order, ...]

    @property
    def rest(self) -> Order:
        """The order of the blocks as the graph has them."""
        return identity(len(self.inputs))

    def of_inputs(self, blocks: Order) -> Order:
        return tuple(axis for block in blocks for axis in self.inputs[block])

    def of_output(self, blocks: Order) -> Order:
        return tuple(axis for block in blocks for axis in self.outputs[block])

    def from_inputs(self, order: Order, dims: Sequence[int]) -> Order | None:
        """The order of the blocks in which it reads inputs that are stored in this one; None where there is none."""
        return _blocks(self.inputs, order, dims)

    def from_output(self, order: Order, dims: Sequence[int]) -> Order | None:
        """In which it writes its output in this one."""
        return _blocks(self.outputs, order, dims)


def _blocks(parts: tuple[Order, ...], order: Order, dims: Sequence[int]) -> Order | None:
    def place(block: int) -> int:
        axes = in_memory(parts[block], dims) or parts[block]
        return order.index(axes[0]) if axes else -1

    found = tuple(sorted(range(len(parts)), key=place))
    written = tuple(axis for block in found for axis in parts[block])
    return found if in_memory(written, dims) == in_memory(order, dims) else None


def freedom(node: Any, values: Mapping[int, Any], turning: Container[int]) -> Freedom | None:
    """None for an operator that computes in the graph's own order alone. ``values``: the graph's, by their number;
    ``turning``: the constants that can be had in every order."""
    result = outputs(node)
    used = [values[key] for _, key in (*inputs(node), *result)]
    if len(result) != 1 or any(tensor(value).datatype.name in _ROWWISE for value in used):
        return None
    given = tensor(used[-1]).dims
    if kind(node) == RESHAPE:
        return None if is_constant(used[0]) else Freedom(*_kept_together(tensor(used[0]).dims, given))
    if kind(node) not in (*_ELEMENTWISE, *_CONCATENATIONS, SLICE, _PAD):
        return None
    for _, key in inputs(node):
        if key not in turning and (is_constant(values[key]) or len(tensor(values[key]).dims) != len(given)):
            return None
    axes = tuple((axis,) for axis in range(len(given)))
    return Freedom(axes, axes)


def is_constant(value: Any) -> bool:
    return bool(tensor(value).constant_buffer_idx)


def _kept_together(before: Sequence[int], after: Sequence[int]) -> tuple[tuple[Order, ...], tuple[Order, ...]]:
    """The smallest runs of axes that a reshape makes of one another."""
    taken, given = [], []
    i = j = 0
    while i < len(before) and j < len(after):
        start, begin, left, right = i, j, before[i], after[j]
        while left != right:
            if left < right:
                i += 1
                left *= before[i]
            else:
                j += 1
                right *= after[j]
        i, j = i + 1, j + 1
        taken.append(tuple(range(start, i)))
        given.append(tuple(range(begin, j)))
    # What is left are axes of one element.
    taken[-1] += tuple(range(i, len(before)))
    given[-1] += tuple(range(j, len(after)))
    return tuple(taken), tuple(given)


def turned(node: Any, order: Order, dims: Sequence[int]) -> Any:
    """An operator's table as it computes its output in this order; ``dims``: of the output, in that order."""
    union, name = node.xnode_union, kind(node)
    if name in _CONCATENATIONS:
        return replace(union, axis=order.index(union.axis))
    if name == SLICE:
        return replace(union, offsets=permuted(union.offsets, order), sizes=permuted(union.sizes, order))
    if name == _PAD:
        widths = {key: permuted(getattr(union, key), order) for key in ("pre_paddings", "post_paddings")}
        return replace(union, **widths)
    if name == RESHAPE:
        return replace(union, num_dims=len(dims), new_shape=list(dims))
    return replace(union)
