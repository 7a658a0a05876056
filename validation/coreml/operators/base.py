"""What the operators share: how the values of a program become a function's arguments, and sizes of windows.

An operator is a function whose parameters bear MIL's names and defaults. A parameter annotated `Tensor` gets the tensor
(floating-point ones always float32), ``list[Tensor]`` all values of the argument, and ``int``, ``float``, ``bool``,
``str``, ``list[int]``, ``list[bool]`` the value as Python has it. Of a choice of texts, `Literal` names all. ``ios`` is
no parameter of MIL's: it gets the system, 15 to 18 or 26, whose operator set the program is written in. What the
function returns is converted to the type that the program declares.

What it cannot compute it refuses: by `UnavailableError` where MIL leaves open what should come out or it is not
implemented, by `ValueError` where MIL forbids it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

Value = Tensor | str
Function = Callable[..., Tensor | tuple[Tensor, ...]]
PadType = Literal["valid", "custom", "same", "same_lower"]

_IOS = "ios"

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
    """An operator's function, and for each of its parameters how a value becomes an argument.

    ``texts``: what a parameter that is a text can be. ``versioned``: whether it is told the system. ``refuse``: takes
    parameters of the operator that are constants in every program, and says why it cannot be computed with them, or
    None.
    """

    function: Function
    conversions: Mapping[str, Callable[[Sequence[Value]], Any]]
    required: frozenset[str]
    texts: Mapping[str, frozenset[str]]
    versioned: bool
    refuse: Callable[..., str | None]

    def __call__(self, arguments: Mapping[str, Sequence[Value]], ios: int) -> tuple[Tensor, ...]:
        """The outputs, in order, each of a dtype of the function's own."""
        told = {"ios": ios} if self.versioned else {}
        result = self.function(**self._converted(arguments), **told)
        return result if isinstance(result, tuple) else (result,)

    @property
    def telling(self) -> frozenset[str]:
        """The parameters that `refused` looks at."""
        return frozenset((*self.texts, *inspect.signature(self.refuse).parameters))

    def refused(self, constants: Mapping[str, Sequence[Value]]) -> str | None:
        """Why it cannot be computed, from the values of the `telling` parameters that are given."""
        for name, known in self.texts.items():
            if name in constants and constants[name][0] not in known:
                return f"{name} '{constants[name][0]}'"
        asked = inspect.signature(self.refuse).parameters
        return self.refuse(**self._converted({name: v for name, v in constants.items() if name in asked}))

    def _converted(self, arguments: Mapping[str, Sequence[Value]]) -> dict[str, Any]:
        return {name: self.conversions[name](values) for name, values in arguments.items()}


def operator(function: Function, refuse: Callable[..., str | None] = lambda: None) -> Operator:
    """The operator of a function that is annotated as this module says."""
    hints = {name: _without_none(hint) for name, hint in get_type_hints(function).items()}
    parameters = {name: p for name, p in inspect.signature(function).parameters.items() if name != _IOS}
    texts = {name: frozenset(get_args(hints[name])) for name in parameters if get_origin(hints[name]) is Literal}
    return Operator(
        function,
        {name: _one if name in texts else _CONVERSIONS[hints[name]] for name in parameters},
        frozenset(name for name, p in parameters.items() if p.default is inspect.Parameter.empty),
        texts,
        _IOS in hints,
        refuse,
    )


def _without_none(hint: Any) -> Any:
    """``T`` of ``T | None``."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(hint) else hint


def axis_of(axis: int, rank: int) -> int:
    """A negative axis counted from the front."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank} axes")
    return axis % rank


def channelwise(vector: Tensor, rank: int) -> Tensor:
    """``(C,)`` so that it broadcasts along the second of ``rank`` axes."""
    return vector.reshape(1, -1, *[1] * (rank - 2))


def pairs(values: Sequence[int]) -> list[tuple[int, int]]:
    """``[before, after, before, after, ...]`` as pairs."""
    return list(zip(values[0::2], values[1::2], strict=True))


def window_padding(
    pad_type: PadType,
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
        return not_negative(pairs(pad or [0] * (2 * len(triples))))
    if pad_type == "valid":
        return [(0, 0)] * len(triples)
    totals = [max((math.ceil(n / s) - 1) * s + w - n, 0) for n, w, s in triples]
    if pad_type == "same":
        return [(total // 2, total - total // 2) for total in totals]
    return [(total - total // 2, total // 2) for total in totals]


def not_negative(padding: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """torch would cut off what MIL does not allow."""
    if any(n < 0 for pair in padding for n in pair):
        raise ValueError(f"a padding of {padding}")
    return padding


def torch_padding(padding: Sequence[tuple[int, int]]) -> list[int]:
    """For `torch.nn.functional.pad`, which counts axes from the last."""
    return [n for pair in reversed(padding) for n in pair]
