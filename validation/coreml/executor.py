"""Runs a program operation by operation in PyTorch, each value freed after its last use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from mobileseg.errors import UnavailableError, UsageError
from mobileseg.validation.coreml.operators import DTYPES, OPERATORS, Value
from mobileseg.validation.coreml.program import Constant, Named, Operation, Program, Reference, TensorType, references

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arithmetic = Literal["file", "float32"]
Watch = Callable[[str, "NDArray[Any]"], None]

_COMPRESSED = "constexpr_"
_OUTPUTS = {"fp16": np.float16, "uint16": np.uint16, "uint32": np.uint32}
"""Elements that are handed back in another dtype than they are held in."""

_SYSTEMS = {"CoreML5": 15, "CoreML6": 16, "CoreML7": 17, "CoreML8": 18, "CoreML9": 26}
"""Operator set -> the iOS that it came with."""

_UNSIGNED = {"uint16": 0xFFFF, "uint32": 0xFFFF_FFFF}
"""Elements that are held in wider signed ones -> the bits that are theirs."""

_ARRAYS = {"double": "float64"}
_CHANNELS = {"RGB": 3, "BGR": 3, "GRAYSCALE": 1, "GRAYSCALE_FLOAT16": 1}

_TORCH_ERRORS = (RuntimeError, IndexError, ValueError, TypeError, KeyError, ArithmeticError, AttributeError)
"""What PyTorch, and a function here, meet in arguments that do not fit together."""


@dataclass(frozen=True)
class Picture:
    """An input or output that is an image: values 0 to 255, (1, channels, H, W).

    ``colours``: ``"RGB"``, ``"BGR"``, ``"GRAYSCALE"`` or ``"GRAYSCALE_FLOAT16"``, the order in which the program has
    the channels. ``scale``, ``bias``: what the program's first operators multiply an input picture by and then add, one
    number or one a channel; they are operators of the program and run as such.
    """

    colours: str
    scale: tuple[float, ...] = (1.0,)
    bias: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class Feature:
    """An input or output as the model's description has it. ``dtype``: NumPy's name; of a picture ``"float32"``."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    picture: Picture | None = None


@dataclass(frozen=True)
class Executor:
    """A loaded package. ``description``: coremltools' ``ModelDescription`` message."""

    path: Path
    description: Any = field(repr=False)
    program: Program = field(repr=False)
    arithmetic: Arithmetic

    @cached_property
    def inputs(self) -> tuple[Feature, ...]:
        return tuple(self._feature(message, is_input=True) for message in self._described("input"))

    @cached_property
    def outputs(self) -> tuple[Feature, ...]:
        return tuple(self._feature(message, is_input=False) for message in self._described("output"))

    @cached_property
    def unsupported(self) -> tuple[str, ...]:
        """What cannot run, ``"main: op 17 'foo_op' output 'x_3'"``; empty where all can."""
        faults = []
        if self.program.opset not in _SYSTEMS:
            faults.append(f"{self.program.function}: operator set '{self.program.opset}'")
        faults += [
            f"{self.program.function}: input '{value.name}' of type {value.type.kind}"
            for value in self.program.inputs
            if value.type.kind not in DTYPES
        ]
        for operation in self.program.operations:
            why = _why_unsupported(operation)
            if why is None:
                why = self._why_refused(operation)
            if why is not None:
                faults.append(f"{_place(self.program, operation)}{why}")
        return tuple(faults)

    def run(self, inputs: Mapping[str, NDArray[Any]], watch: Watch | None = None) -> dict[str, NDArray[Any]]:
        """The outputs by name, for the inputs by name, each of the shape and dtype that the program declares.

        ``watch`` is called with the name and the value of everything that an operator gives, in order.
        Raises `UnavailableError` where something is `unsupported`, `UsageError` for inputs that are not the program's
        or a program whose operators do not fit together.
        """
        if self.unsupported:
            raise UnavailableError(
                f"The reference executor cannot run '{self.path}': {'; '.join(self.unsupported)}. A Mac can."
            )
        with torch.inference_mode():
            values: dict[str, Value] = {**self.constants, **self._given(inputs)}
            for operation, done in self._steps:
                results = self._compute(operation, values)
                if watch is not None:
                    for value in operation.outputs:
                        watch(value.name, _exported(results[value.name], value.type))
                values.update(results)
                for name in done:
                    del values[name]
            return {name: _exported(_tensor(values[name]), self._types[name]) for name in self.program.outputs}

    def _why_refused(self, operation: Operation) -> str | None:
        """What an operator says of the constants that it is given; None where it can compute with them."""
        operator = OPERATORS.get(operation.kind)
        if operator is None:
            return None
        constants: dict[str, list[Value]] = {}
        for name in operator.telling & set(operation.arguments):
            found = [self._plain.get(v.name) if isinstance(v, Reference) else v for v in operation.arguments[name]]
            stored = [self._imported(v) for v in found if v is not None and v.value is not None]
            if len(stored) == len(found):
                constants[name] = stored
        try:
            why = operator.refused(constants)
        except _TORCH_ERRORS as error:
            raise self._unfit(operation, str(error)) from error
        return None if why is None else f": {why}"

    @cached_property
    def _plain(self) -> Mapping[str, Constant]:
        """The constants as they stand in the file."""
        stored = [o for o in self.program.operations if o.kind == "const"]
        return {o.outputs[0].name: v for o in stored for v in o.arguments.get("val", ()) if isinstance(v, Constant)}

    @cached_property
    def _types(self) -> Mapping[str, TensorType]:
        values = [*self.program.inputs, *(value for o in self.program.operations for value in o.outputs)]
        return {value.name: value.type for value in values}

    @cached_property
    def constants(self) -> dict[str, Value]:
        """By name; compressed ones as the numbers they stand for."""
        known: dict[str, Value] = {}
        with torch.inference_mode():
            for operation in self.program.operations:
                if operation.kind == "const":
                    (constant,) = operation.arguments["val"]
                    known[operation.outputs[0].name] = self._imported(constant)
                elif operation.kind.startswith(_COMPRESSED):
                    known.update(self._compute(operation, known))
        return known

    @cached_property
    def _steps(self) -> tuple[tuple[Operation, tuple[str, ...]], ...]:
        """What is computed at each run, and the values that nothing reads any more afterwards."""
        computed = [o for o in self.program.operations if not _is_constant(o)]
        last = {name: position for position, o in enumerate(computed) for name in (*references(o), *_gives(o))}
        kept = {*self.program.outputs, *self.constants}
        done: list[list[str]] = [[] for _ in computed]
        for name, position in last.items():
            if name not in kept:
                done[position].append(name)
        return tuple((o, tuple(names)) for o, names in zip(computed, done, strict=True))

    def _compute(self, operation: Operation, values: Mapping[str, Value]) -> dict[str, Tensor]:
        arguments = {
            parameter: [values[v.name] if isinstance(v, Reference) else self._imported(v) for v in given]
            for parameter, given in operation.arguments.items()
        }
        try:
            results = OPERATORS[operation.kind](arguments, _SYSTEMS[self.program.opset])
        except UnavailableError as error:
            raise UnavailableError(
                f"The reference executor cannot run '{self.path}': {_place(self.program, operation)}: {error}."
            ) from error
        except _TORCH_ERRORS as error:
            raise self._unfit(operation, str(error)) from error
        if len(results) != len(operation.outputs):
            raise self._unfit(operation, f"it gives {len(results)} values, the program names {len(operation.outputs)}")
        return {
            value.name: self._declared(result, value, operation)
            for value, result in zip(operation.outputs, results, strict=True)
        }

    def _declared(self, result: Tensor, value: Named, operation: Operation) -> Tensor:
        if not _fits(tuple(result.shape), value.type.shape):
            raise self._unfit(operation, f"'{value.name}' is {tuple(result.shape)}, declared {value.type.shape}")
        return self._stored(result, value.type.kind)

    def _stored(self, tensor: Tensor, kind: str) -> Tensor:
        """As an element of this kind holds it."""
        held = tensor.to(DTYPES[kind])
        if kind in _UNSIGNED:
            return held & _UNSIGNED[kind]
        return held.half().float() if kind == "fp16" and self.arithmetic == "file" else held

    def _imported(self, constant: Any) -> Value:
        value = constant.value
        if isinstance(value, str):
            return value
        # Copied: what is read from a file is not writable, and PyTorch would hold it against it.
        return torch.from_numpy(_held(np.array(value))).to(DTYPES[constant.type.kind])

    def _given(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Value]:
        wanted = {value.name: value.type for value in self.program.inputs}
        if set(inputs) != set(wanted):
            raise UsageError(
                f"'{self.path}' takes {', '.join(sorted(wanted)) or 'nothing'}; got {', '.join(sorted(inputs))}."
            )
        for name, array in inputs.items():
            if not _fits(array.shape, wanted[name].shape):
                raise UsageError(f"'{self.path}' takes '{name}' of {wanted[name].shape}; got {array.shape}.")
        return {
            name: self._stored(torch.from_numpy(_held(np.array(array))), wanted[name].kind)
            for name, array in inputs.items()
        }

    def _described(self, side: str) -> Sequence[Any]:
        """Of the function that is run: packages of several functions describe each."""
        for function in self.description.functions:
            if function.name == self.program.function:
                return tuple(getattr(function, side))
        return tuple(getattr(self.description, side))

    def _feature(self, message: Any, *, is_input: bool) -> Feature:
        form = message.type.WhichOneof("Type")
        if form == "multiArrayType":
            array = message.type.multiArrayType
            names = array.DESCRIPTOR.fields_by_name["dataType"].enum_type.values_by_number
            dtype = names[array.dataType].name.lower()
            return Feature(message.name, tuple(array.shape), _ARRAYS.get(dtype, dtype))
        if form == "imageType":
            image = message.type.imageType
            colours = image.DESCRIPTOR.fields_by_name["colorSpace"].enum_type.values_by_number[image.colorSpace].name
            shape = (1, _CHANNELS.get(colours, 3), image.height, image.width)
            scale, bias = self._affine(message.name) if is_input else ((1.0,), (0.0,))
            return Feature(message.name, shape, "float32", Picture(colours, scale, bias))
        raise UsageError(f"'{message.name}' of '{self.path}' is a {form}; expected an image or a multi-array.")

    def _affine(self, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The factor and the summand with which the program begins on one input."""
        scale, value = self._constant_beside(name, ("mul",))
        bias, _ = self._constant_beside(value, ("add",))
        return scale or (1.0,), bias or (0.0,)

    def _constant_beside(self, name: str, kinds: tuple[str, ...]) -> tuple[tuple[float, ...], str]:
        users = [o for o in self.program.operations if name in references(o)]
        if len(users) != 1 or users[0].kind not in kinds:
            return (), name
        operands = [given[0] for given in users[0].arguments.values()]
        constants = [self._number(operand) for operand in operands]
        found = next((c for c in constants if c is not None), None)
        return (found, users[0].outputs[0].name) if found is not None else ((), name)

    def _number(self, operand: Any) -> tuple[float, ...] | None:
        if isinstance(operand, Reference):
            operand = self._plain.get(operand.name)
        if not isinstance(operand, Constant) or not isinstance(operand.value, np.ndarray):
            return None
        return tuple(float(n) for n in operand.value.ravel())

    def _unfit(self, operation: Operation, why: str) -> UsageError:
        said = next((line.strip() for line in why.splitlines() if line.strip()), "no reason given")
        return UsageError(
            f"'{self.path}' cannot be run: {_place(self.program, operation)}: {said.rstrip('.')}. Convert it again."
        )


def _why_unsupported(operation: Operation) -> str | None:
    """None for an operation that can run; else what is to be said of it beyond its place."""
    if operation.nested:
        return " with operators inside"
    operator = OPERATORS.get(operation.kind)
    if operator is None and operation.kind != "const":
        return ""
    if operator is not None:
        unknown = sorted(set(operation.arguments) - set(operator.conversions))
        missing = sorted(operator.required - set(operation.arguments))
        if unknown or missing:
            return f": unknown parameters {unknown}" if unknown else f": no parameter {', '.join(missing)}"
    elif set(operation.arguments) != {"val"}:
        return ": a constant without a value"
    constants = [v for given in operation.arguments.values() for v in given if isinstance(v, Constant)]
    kinds = {v.type.kind for v in constants if v.value is None} | {
        value.type.kind for value in operation.outputs if value.type.kind not in (*DTYPES, "string")
    }
    return f" of type {', '.join(sorted(kinds))}" if kinds else None


def _is_constant(operation: Operation) -> bool:
    return operation.kind == "const" or operation.kind.startswith(_COMPRESSED)


def _gives(operation: Operation) -> Iterator[str]:
    return (value.name for value in operation.outputs)


def _place(program: Program, operation: Operation) -> str:
    names = ", ".join(f"'{name}'" for name in _gives(operation)) or "none"
    return f"{program.function}: op {operation.index} '{operation.kind}' output {names}"


def _fits(shape: tuple[int, ...], declared: tuple[int | None, ...] | None) -> bool:
    if declared is None:
        return True
    return len(shape) == len(declared) and all(d in (None, n) for n, d in zip(shape, declared, strict=True))


def _held(array: NDArray[Any]) -> NDArray[Any]:
    """PyTorch takes no unsigned integers of 16 and 32 bits from NumPy that it can compute with."""
    return array.astype(np.int64) if array.dtype in (np.uint16, np.uint32) else array


def _tensor(value: Value) -> Tensor:
    if isinstance(value, str):
        raise UsageError("The program returns a text; expected tensors.")
    return value


def _exported(tensor: Tensor, declared: TensorType) -> NDArray[Any]:
    array = tensor.contiguous().numpy()
    dtype = _OUTPUTS.get(declared.kind)
    return np.array(array, dtype) if dtype else array.copy()
