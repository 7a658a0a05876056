"""From ranges to scales: which tensors share one, and the numbers themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.quantization.params import CONCATENATION_LOSS, GREATEST, PICTURE, Params
from mobileseg.quantization.ranges import BORDER
from mobileseg.quantization.tflite.numbers import INT8, Numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mobileseg.quantization.ranges import Range
    from mobileseg.quantization.tflite.flatbuffer import Graph
    from mobileseg.quantization.tflite.unpooling import Unpooling

LEAST_FACTOR = 2.0**-31
"""Least of what a channel's accumulator is multiplied by to become the output's number; 31 bits are one level then.

For one channel far below (of weights that training has made 1e-38) XNNPACK leaves the whole convolution to the
interpreter's own kernels, which are slower and round otherwise on ARM than on x86.
"""


def quantize_weights(
    weights: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    x_scale: float,
    y_scale: float,
    axis: int,
    numbers: Numbers = INT8,
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[Any] | None]:
    """Symmetric int8 weights with a scale per output channel (float32), and the bias at the product of scales.

    ``x_scale``, ``y_scale``: of the input and the output. A channel's scale is widened where its bias would not fit
    beside so fine a scale, or a product would count for nothing (weights near zero).
    """
    others = tuple(a for a in range(weights.ndim) if a != axis % weights.ndim)
    scales = np.abs(weights).max(axis=others).astype(np.float64) / GREATEST
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias.astype(np.float64)) / (x_scale * numbers.largest_bias))
    least = max(LEAST_FACTOR * y_scale / x_scale, float(np.finfo(np.float32).tiny))
    scales = np.maximum(scales, least).astype(np.float32)
    shape = [1] * weights.ndim
    shape[axis] = -1
    q = np.clip(np.round(weights.astype(np.float64) / scales.reshape(shape)), -GREATEST, GREATEST).astype(np.int8)
    if bias is None:
        return q, scales, None
    steps = np.round(bias.astype(np.float64) / (x_scale * scales.astype(np.float64)))
    return q, scales, steps.astype(numbers.bias_dtype)


class Groups:
    """Disjoint sets of tensors with one scale each."""

    def __init__(self, ranges: Mapping[int, Range], numbers: Numbers = INT8) -> None:
        self._ranges, self._numbers = ranges, numbers
        self._parent: dict[int, int] = {}
        self._range: dict[int, Range] = {}
        self._fixed: dict[int, Params] = {}
        self._size: dict[int, int] = {}

    def size(self, tensor: int) -> int:
        return self._size.get(self.root(tensor), 1)

    def root(self, tensor: int) -> int:
        parent = self._parent.setdefault(tensor, tensor)
        if parent != tensor:
            self._parent[tensor] = parent = self.root(parent)
        return parent

    def range(self, tensor: int) -> Range:
        return self._range.get(self.root(tensor)) or self._ranges[tensor]

    def widen(self, tensor: int, wanted: Range) -> None:
        low, high = self.range(tensor)
        self._range[self.root(tensor)] = (min(low, wanted[0]), max(high, wanted[1]))

    def fix(self, tensor: int, params: Params) -> None:
        self._fixed[self.root(tensor)] = params

    def join(self, a: int, b: int) -> None:
        """One scale for both, unless kernels dictate two different ones."""
        ra, rb = self.root(a), self.root(b)
        fixed = {self._fixed[r] for r in (ra, rb) if r in self._fixed}
        if ra == rb or len(fixed) > 1:
            return
        (la, ha), (lb, hb) = self.range(a), self.range(b)
        self._size[ra] = self.size(a) + self.size(b)
        self._parent[rb] = ra
        self._range[ra] = (min(la, lb), max(ha, hb))
        for params in fixed:
            self._fixed[ra] = params

    def params(self, tensor: int) -> Params:
        return self._fixed.get(self.root(tensor)) or self._numbers.params(*self.range(tensor))


def assign(
    graph: Graph,
    ranges: Mapping[int, Range],
    operators: Sequence[Any],
    unpooling: Unpooling,
    numbers: Numbers = INT8,
) -> dict[int, Params]:
    """The parameters of each computed float tensor that the quantized ``operators`` read or write."""
    groups, users, rules = Groups(ranges, numbers), graph.users(), numbers.rules
    for tensor in graph.inputs:
        if tensor in ranges:  # else only float operators read it
            groups.widen(tensor, PICTURE)
    for tensor in unpooling.flags:
        groups.fix(tensor, numbers.flag)
    for operator in operators:
        output = rules[graph.kind(operator)].output if graph.kind(operator) in rules else None
        if output is not None:
            groups.fix(int(operator.outputs[0]), output)
    for a, b in unpooling.alike:
        groups.join(a, b)
    shared = [o for o in operators if graph.kind(o) in rules and rules[graph.kind(o)].shares]
    # Concatenations last: whether one would widen its inputs' scales shows once these are known.
    for operator in sorted(shared, key=lambda o: graph.kind(o) == "CONCATENATION"):
        _join_shared(graph, groups, operator, users)
    for operator in shared:
        # The border of a padded maximum pooling must stay below every element: it gets the lowest level for itself.
        if graph.kind(operator) == "PADV2" and _is_border(graph.constant(int(operator.inputs[2]))):
            low, high = groups.range(int(operator.inputs[0]))
            groups.widen(int(operator.inputs[0]), (low - (high - low) / (numbers.greatest - numbers.least - 1), high))
    touched = {int(i) for o in operators for i in (*o.inputs, *o.outputs)}
    computed = {i for i in touched if graph.is_float(i) and graph.constant(i) is None}
    params = {i: groups.params(i) for i in computed if i in ranges or i in unpooling.flags}
    return params | {d: numbers.of_differences(params[m]) for d, m in unpooling.differences.items()}


def _is_border(constant: NDArray[np.float32] | None) -> bool:
    return constant is not None and bool((constant <= -BORDER).all())


def _join_shared(graph: Graph, groups: Groups, operator: Any, users: Mapping[int, int]) -> None:
    result = int(operator.outputs[0])
    for source in (int(i) for i in operator.inputs):
        if not graph.is_float(source) or graph.constant(source) is not None:
            continue
        read_elsewhere = users[source] > 1 or groups.size(source) > 1
        if graph.kind(operator) == "CONCATENATION" and read_elsewhere and _loses(groups, source, result):
            continue
        groups.join(result, source)


def _loses(groups: Groups, source: int, result: int) -> bool:
    (low, high), (wide_low, wide_high) = groups.range(source), groups.range(result)
    return (wide_high - wide_low) > CONCATENATION_LOSS * (high - low)
