"""How the MACs of each kind of operator are counted; one module a format says which of its operators is of which kind.

An operator that a table does not have is `unknown`: its bytes are counted, and its MACs are said not to be known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from mobileseg.validation.graphs.costs import SELECTION, UNKNOWN, VIEW, Operands, Place, Rule, Tensor, Work, times

__all__ = [
    "CONVOLUTIONS",
    "DEPTHWISE",
    "SELECTION",
    "UNKNOWN",
    "VIEW",
    "convolution",
    "either",
    "free",
    "linear",
    "product",
    "table",
    "transposed_convolution",
    "unknown",
]

CONVOLUTION, GROUPED, DEPTHWISE = "convolution", "grouped convolution", "depthwise convolution"
TRANSPOSED, PRODUCT = "transposed convolution", "matrix product"
CONVOLUTIONS = (CONVOLUTION, GROUPED, DEPTHWISE, TRANSPOSED, PRODUCT)
"""The kinds of operators that multiply matrices."""

_NOTHING = Tensor(None, "")


def unknown(operands: Operands) -> Work:
    """Of an operator that is not in its format's table."""
    return Work(UNKNOWN, None)


def free(kind: str) -> Rule:
    """Of operators that multiply no matrices."""
    return lambda operands: Work(kind, 0)


def table(multiplying: Mapping[str, Rule], **kinds: str) -> dict[str, Rule]:
    """Operator -> rule. ``kinds``: names of operators without MACs, with spaces between them, by their kind."""
    return {**multiplying, **{name: free(kind) for kind, names in kinds.items() for name in names.split()}}


def convolution(
    *, data: Place = 0, weights: Place = 1, channels: int = 1, per_group: int | None = None, kind: str = CONVOLUTION
) -> Rule:
    """Each place of the result multiplies all weights, or as many for each of its channels as a group has.

    ``channels``: the axis of the channels in data and result; ``per_group``: the axis of the weights along which one
    group's input channels lie, where that tells a grouped or depthwise convolution from a full one.
    """

    def work(operands: Operands) -> Work:
        given, held = _input(operands, data), _input(operands, weights)
        macs = times(_places(_output(operands), channels), held.elements)
        return Work(kind if per_group is None else _grouping(given, held, channels, per_group), macs)

    return work


def transposed_convolution(*, data: Place = 0, weights: Place = 1, channels: int = 1) -> Rule:
    """Each place of the data multiplies all weights; what falls outside the cropped result counts, too."""

    def work(operands: Operands) -> Work:
        return Work(TRANSPOSED, times(_places(_input(operands, data), channels), _input(operands, weights).elements))

    return work


def linear(*, weights: Place = 1) -> Rule:
    """Each row of the result, along its last axis, multiplies all weights."""
    return convolution(weights=weights, channels=-1, kind=PRODUCT)


def product(*, data: Place = 0) -> Rule:
    """A product of matrices, transposed or not, in a batch or not: each element of the result sums as many products as
    the matrix at ``data`` has elements for each row of the result."""

    def work(operands: Operands) -> Work:
        given, result = _input(operands, data).shape, _output(operands).shape
        if not given or result is None:
            return Work(PRODUCT, None)
        # Of a product with a vector, the result has one axis less.
        rows = 1 if len(given) == 1 else (1, *result, 1)[-2 if len(result) < len(given) else -3]
        matrix = times(*given[-2:])
        if matrix is None or not rows:
            return Work(PRODUCT, None if rows is None or matrix is None else 0)
        return Work(PRODUCT, times(times(*result), matrix // rows))

    return work


def either(option: Place, yes: Rule, no: Rule) -> Rule:
    """``yes`` where the operator's option is set."""
    return lambda operands: yes(operands) if operands.options.get(option) else no(operands)


def _input(operands: Operands, place: Place) -> Tensor:
    """Of unknown shape where it is left out, which a sound file does not."""
    return operands.inputs.get(place, _NOTHING)


def _output(operands: Operands) -> Tensor:
    return operands.outputs[0] if operands.outputs else _NOTHING


def _places(tensor: Tensor, channels: int) -> int | None:
    """Elements of one channel, in the whole batch."""
    shape = tensor.shape
    if shape is None or not -len(shape) <= channels < len(shape):
        return None
    others = [n for axis, n in enumerate(shape) if axis != channels % len(shape)]
    return None if None in others else math.prod(n for n in others if n is not None)


def _grouping(data: Tensor, weights: Tensor, channels: int, per_group: int) -> str:
    if data.shape is None or weights.shape is None or len(data.shape) != len(weights.shape):
        return CONVOLUTION
    whole, part = data.shape[channels], weights.shape[per_group]
    if whole == part or None in (whole, part):
        return CONVOLUTION
    return DEPTHWISE if part == 1 else GROUPED
