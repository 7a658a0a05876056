"""What the operators share: how the values of a program become a function's arguments, and sizes of windows.

An operator is a function whose parameters bear MIL's names and defaults. A parameter annotated `Tensor` gets the tensor
(floating-point ones always float32), ``list[Tensor]`` all values of the argument, and ``int``, ``float``, ``bool``,
``str``, ``list[int]``, ``list[bool]`` the value as Python has it. What it returns is converted to the type that the
program declares.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

import torch
from torch import Tensor

Value = Tensor | str
Function = Callable[..., Tensor | tuple[Tensor, ...]]

DTYPES = {
    "fp16": torch.float32,
    "fp32": torch.float32,
    "bool": torch.bool,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "uint16": torch.int32,
    "int32": torch.int32,
    "uint32": torch.int64,
    "int64": torch.int64,
    "int4": torch.int8,
    **dict.fromkeys(("uint1", "uint2", "uint3", "uint4", "uint6"), torch.uint8),
}
"""In what a kind of element is held. float16 is rounded to its precision and held as float32; PyTorch computes little
with unsigned integers, so those of 16 and 32 bits are held in wider signed ones."""


def _one(values: Sequence[Value]) -> Any:
    (value,) = values
    return value


def _listed(values: Sequence[Value]) -> Any:
    return _one(values).reshape(-1).tolist()


_CONVERSIONS: Mapping[Any, Callable[[Sequence[Value]], Any]] = {
    Tensor: _one,
    list[Tensor]: list,
    int: lambda values: int(_one(values)),
    float: lambda values: float(_one(values)),
    bool: lambda values: bool(_one(values)),
    str: _one,
    list[int]: _listed,
    list[bool]: _listed,
}


@dataclass(frozen=True)
class Operator:
    """An operator's function, and for each of its parameters how a value becomes an argument."""

    function: Function
    conversions: Mapping[str, Callable[[Sequence[Value]], Any]]
    required: frozenset[str]

    def __call__(self, arguments: Mapping[str, Sequence[Value]]) -> tuple[Tensor, ...]:
        """The outputs, in order, each of a dtype of the function's own."""
        result = self.function(**{name: self.conversions[name](values) for name, values in arguments.items()})
        return result if isinstance(result, tuple) else (result,)


def operator(function: Function) -> Operator:
    """The operator of a function that is annotated as this module says."""
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters
    conversions = {name: _CONVERSIONS[_without_none(hints[name])] for name in parameters}
    required = frozenset(name for name, p in parameters.items() if p.default is inspect.Parameter.empty)
    return Operator(function, conversions, required)


def _without_none(hint: Any) -> Any:
    """``T`` of ``T | None``."""
    kinds = [kind for kind in getattr(hint, "__args__", ()) if kind is not type(None)]
    return kinds[0] if type(None) in getattr(hint, "__args__", ()) else hint


def axis_of(axis: int, rank: int) -> int:
    """A negative axis counted from the front."""
    return axis % rank


def channelwise(vector: Tensor, rank: int) -> Tensor:
    """``(C,)`` so that it broadcasts along the second of ``rank`` axes."""
    return vector.reshape(1, -1, *[1] * (rank - 2))


def pairs(values: Sequence[int]) -> list[tuple[int, int]]:
    """``[before, after, before, after, ...]`` as pairs."""
    return list(zip(values[0::2], values[1::2], strict=True))


def window_padding(
    pad_type: str,
    pad: Sequence[int] | None,
    sizes: Iterable[int],
    windows: Iterable[int],
    strides: Iterable[int],
) -> list[tuple[int, int]]:
    """Elements before and after, for each spatial axis. ``windows``: with their dilations.

    ``same`` puts an odd element after, ``same_lower`` before, as TensorFlow's SAME and ONNX's SAME_LOWER do.
    """
    triples = list(zip(sizes, windows, strides, strict=True))
    if pad_type == "custom":
        return pairs(pad or [0] * (2 * len(triples)))
    if pad_type == "valid":
        return [(0, 0)] * len(triples)
    totals = [max((math.ceil(n / s) - 1) * s + w - n, 0) for n, w, s in triples]
    if pad_type == "same":
        return [(total // 2, total - total // 2) for total in totals]
    if pad_type == "same_lower":
        return [(total - total // 2, total // 2) for total in totals]
    raise ValueError(f"pad_type '{pad_type}'")


def torch_padding(padding: Sequence[tuple[int, int]]) -> list[int]:
    """For `torch.nn.functional.pad`, which counts axes from the last."""
    return [n for pair in reversed(padding) for n in pair]
