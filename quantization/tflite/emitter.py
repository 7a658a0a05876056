"""Writes a float file's operators anew in integers, by the range of each tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mobileseg.halves import in_half, pays_in_half
from mobileseg.quantization.params import PICTURE, Params
from mobileseg.quantization.tflite.numbers import INT8, Numbers
from mobileseg.quantization.tflite.operators import FLOAT_AT_THE_END, Weights
from mobileseg.quantization.tflite.scales import assign, quantize_weights
from mobileseg.quantization.tflite.unpooling import find_unpooling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mobileseg.quantization.ranges import Range
    from mobileseg.quantization.tflite.flatbuffer import Graph
    from mobileseg.quantization.tflite.unpooling import Unpooling

DType = Literal["float32", "int8", "uint8"]

MOVES = frozenset({"PAD", "RESHAPE", "SLICE", "STRIDED_SLICE", "TRANSPOSE", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE"})
"""Operators that compute nothing."""

UNSIGNED = 128
"""What is added to an int8 zero point for the same numbers as uint8."""


def _is_quantizable(graph: Graph, operator: Any, ranges: Mapping[int, Range], numbers: Numbers) -> bool:
    rule = numbers.rules.get(graph.kind(operator))
    floats = [int(i) for i in (*operator.inputs, *operator.outputs) if graph.is_float(int(i))]
    if rule is None or not floats or any(graph.constant(i) is None and i not in ranges for i in floats):
        return False
    if rule.weights is None:
        return True
    bias = int(operator.inputs[rule.weights.bias]) if len(operator.inputs) > rule.weights.bias else -1
    return graph.constant(int(operator.inputs[rule.weights.weights])) is not None and (
        bias < 0 or graph.constant(bias) is not None
    )


class Emitter:
    """Writes the operators anew, with conversions where an int8 and a float operator meet. Large constants of float
    operators are float16, behind a DEQUANTIZE that delegates and kernels run once, when they load the file.

    The file's inputs and outputs keep their tensors, to which its signature refers.
    """

    def __init__(
        self,
        graph: Graph,
        ranges: Mapping[int, Range],
        input_dtype: DType,
        output_dtype: DType,
        floats: frozenset[int] = frozenset(),
        numbers: Numbers = INT8,
    ) -> None:
        self.graph, self.ranges, self.numbers = graph, ranges, numbers
        self.input_dtype, self.output_dtype = input_dtype, output_dtype
        kept = {id(o) for o in graph.operators if any(int(i) in floats for i in o.outputs)}
        self.unpooling: Unpooling = find_unpooling(graph, kept)
        in_chain = set(self.unpooling.ceilings) | self.unpooling.skipped
        int8 = [o for o in graph.operators if id(o) in in_chain or _is_quantizable(graph, o, ranges, numbers)]
        self.quantized = {id(o) for o in int8 if not self._is_last_in_float(o)} - kept
        self.quantized -= self._moved_in_float() - in_chain
        chosen = [o for o in graph.operators if id(o) in self.quantized]
        self.params = assign(graph, ranges, chosen, self.unpooling, numbers)
        self.operators: list[Any] = []
        self.kept_float: list[str] = []
        self.in_float: dict[int, int] = {}
        self.in_integers: dict[tuple[int, Params], int] = {}
        self.constants: dict[tuple[int, bytes], int] = {}

    def run(self) -> None:
        for tensor in self.graph.inputs:
            self._read_input(tensor)
        for operator in self.graph.operators:
            if id(operator) in self.unpooling.skipped:
                continue
            if id(operator) in self.unpooling.ceilings:
                self._flag(operator)
            elif id(operator) in self.quantized and self.graph.kind(operator) == "RELU":
                self._relu(operator)
            elif id(operator) in self.quantized:
                self._integer(operator)
            else:
                self._float(operator)
        for tensor in self.graph.outputs:
            self._write_output(tensor)
        self.graph.subgraph.operators = self.operators

    def _moved_in_float(self) -> set[int]:
        """Operators that move what is there in float, for operators in float alone: the picture's padding in front of
        such a convolution, which takes it in, is not worth a QUANTIZE and a DEQUANTIZE."""
        graph, found = self.graph, set[int]()
        readers: dict[int, list[Any]] = {}
        for operator in graph.operators:
            for tensor in {int(i) for i in operator.inputs}:
                readers.setdefault(tensor, []).append(operator)
        there = {i for i in graph.inputs if graph.is_float(i) and self.input_dtype == "float32"}
        for operator in graph.operators:
            left = self.quantized - found
            if id(operator) in left and graph.kind(operator) in MOVES and int(operator.inputs[0]) in there:
                result = int(operator.outputs[0])
                if result not in graph.outputs and not any(id(reader) in left for reader in readers.get(result, ())):
                    found.add(id(operator))
            if id(operator) not in left or id(operator) in found:
                there.update(int(i) for i in operator.outputs if graph.is_float(int(i)))
        return found

    # Ends

    def _is_last_in_float(self, operator: Any) -> bool:
        """Whether it makes the file's float result of fewer numbers faster than its int8 kind and a DEQUANTIZE do."""
        gives_float = self.output_dtype == "float32" and int(operator.outputs[0]) in self.graph.outputs
        return gives_float and self.graph.kind(operator) in FLOAT_AT_THE_END

    def _read_input(self, tensor: int) -> None:
        if not self.graph.is_float(tensor):
            return
        if self.input_dtype == "float32":
            self.in_float[tensor] = tensor
            return
        # One that float operators alone read has none.
        params = self.params.get(tensor, self.numbers.params(*PICTURE))
        if self.input_dtype == "int8":
            self.graph.set_type(tensor, "INT8", params)
            self.in_integers[tensor, params] = tensor
            return
        self.graph.set_type(tensor, "UINT8", Params(params.scale, params.zero_point + UNSIGNED))
        self.in_integers[tensor, params] = inner = self._new(tensor, "int8", "INT8", params)
        self._convert("QUANTIZE", tensor, inner, version=2)

    def _write_output(self, tensor: int) -> None:
        produced = [i for (t, _), i in self.in_integers.items() if t == tensor]
        if tensor in produced or self.in_float.get(tensor) == tensor:
            return
        if tensor not in self.in_float and not produced:  # not a float tensor: a class map
            return
        if self.output_dtype == "float32":
            self._convert("DEQUANTIZE", produced[0], tensor, self.numbers.to_float)
            return
        params = self._own(tensor)
        inner = self._as_integers(tensor, params)
        shift = UNSIGNED if self.output_dtype == "uint8" else 0
        self.graph.set_type(tensor, self.output_dtype.upper(), Params(params.scale, params.zero_point + shift))
        self._convert("QUANTIZE", inner, tensor, version=2)

    # Operators

    def _float(self, operator: Any) -> None:
        graph = self.graph
        sources = [int(i) for i in operator.inputs]
        if any(graph.is_float(int(i)) for i in (*sources, *operator.outputs)):
            self.kept_float.append(graph.label(operator))
        operator.inputs = np.asarray([self._as_float(i) for i in sources], np.int32)
        operator.outputs = np.asarray([self._float_target(int(i)) for i in operator.outputs], np.int32)
        self.operators.append(operator)

    def _float_target(self, tensor: int) -> int:
        if not self.graph.is_float(tensor):
            return tensor
        outward = tensor in self.graph.outputs and self.output_dtype != "float32"
        self.in_float[tensor] = self._new(tensor, "float", "FLOAT32", None) if outward else tensor
        return self.in_float[tensor]

    def _integer(self, operator: Any) -> None:
        rule = self.numbers.rules[self.graph.kind(operator)]
        sources = [int(i) for i in operator.inputs]
        if rule.weights is not None:
            y_scale = self.params[int(operator.outputs[0])].scale
            operator.inputs = np.asarray(self._convolution_inputs(sources, rule.weights, y_scale), np.int32)
        else:
            common = self.params[int(operator.outputs[0])] if rule.shares else None
            operator.inputs = np.asarray([self._operand(i, common) for i in sources], np.int32)
        operator.outputs = np.asarray([self._target(int(i)) for i in operator.outputs], np.int32)
        self.graph.raise_version(operator, rule.version)
        if hasattr(operator.builtinOptions, "potScaleInt16"):  # else scales of 16-bit numbers must be powers of two
            operator.builtinOptions.potScaleInt16 = False
        self.operators.append(operator)

    def _operand(self, tensor: int, common: Params | None) -> int:
        if tensor < 0 or (not self._is_activation(tensor) and self.graph.constant(tensor) is None):
            return tensor
        return self._as_integers(tensor, common or self._own(tensor))

    def _flag(self, ceil: Any) -> None:
        """n = d * (1/s), see `mobileseg.quantization.tflite.unpooling`."""
        graph, difference = self.graph, self.unpooling.ceilings[id(ceil)]
        inverse = np.float32(1.0 / self.params[difference].scale)
        constant = self._scalar(f"one_level_{difference}", inverse)
        result = int(ceil.outputs[0])
        inputs = [self._as_integers(difference, self.params[difference]), constant]
        options, version = graph.schema.MulOptionsT(), self.numbers.rules["MUL"].version
        self.operators.append(graph.new_operator("MUL", inputs, [self._target(result)], options, version))

    def _relu(self, operator: Any) -> None:
        """max(x * 1, 0): XNNPACK has no RELU of int8, and takes a limit into a product."""
        graph = self.graph
        x, result = int(operator.inputs[0]), int(operator.outputs[0])
        one = self._scalar(f"one_{result}", np.float32(1.0))
        options, version = graph.schema.MulOptionsT(), self.numbers.rules["MUL"].version
        options.fusedActivationFunction = graph.schema.ActivationFunctionType.RELU
        inputs = [self._as_integers(x, self._own(x)), one]
        self.operators.append(graph.new_operator("MUL", inputs, [self._target(result)], options, version))

    def _scalar(self, name: str, value: np.float32) -> int:
        """A constant of one positive number, which its scale represents exactly."""
        params = self.numbers.params(0.0, float(value))
        data = self.numbers.quantize(np.asarray(value), params)
        return self.graph.add_tensor(name, (), self.numbers.name, params, data)

    def _convolution_inputs(self, sources: list[int], places: Weights, y_scale: float) -> list[int]:
        """Each has a bias of its own, if of zeros: two of equal weights must not share it (`Graph._share_buffers`)."""
        graph = self.graph
        x, w = sources[places.x], sources[places.weights]
        b = sources[places.bias] if len(sources) > places.bias else -1
        weights = graph.constant(w)
        if weights is None:
            raise TypeError("only convolutions of constant weights are quantizable")
        params = self._own(x)
        q, scales, bias = quantize_weights(weights, graph.constant(b), params.scale, y_scale, places.axis, self.numbers)
        if bias is None:
            bias = np.zeros(len(scales), self.numbers.bias_dtype)
        inputs = sources[: places.bias]
        inputs[places.x] = self._as_integers(x, params)
        inputs[places.weights] = self._constant(w, q, "INT8", scales, places.axis)
        steps = scales * np.float32(params.scale)
        return [*inputs, self._new_constant(w if b < 0 else b, bias, self.numbers.bias, steps, 0)]

    # Tensors

    def _is_activation(self, tensor: int) -> bool:
        """Whether it is computed in float or int8: not a constant, not a shape or an index."""
        return tensor in self.params or (self.graph.is_float(tensor) and self.graph.constant(tensor) is None)

    def _own(self, tensor: int) -> Params:
        """A tensor's parameters: assigned, or of a constant or a float tensor by its values."""
        if tensor in self.params:
            return self.params[tensor]
        constant = self.graph.constant(tensor)
        low, high = self.ranges[tensor] if constant is None else (float(constant.min()), float(constant.max()))
        return self.numbers.params(low, high)

    def _target(self, tensor: int) -> int:
        if not self.graph.is_float(tensor):
            return tensor
        params = self.params[tensor]
        outward = tensor in self.graph.outputs and self.output_dtype != "int8"
        if outward:
            index = self._new(tensor, self.numbers.name.lower(), self.numbers.name, params)
        else:
            index = tensor
            self.graph.set_type(tensor, self.numbers.name, params)
        self.in_integers[tensor, params] = index
        return index

    def _as_integers(self, tensor: int, params: Params) -> int:
        constant = self.graph.constant(tensor)
        if constant is not None:
            scale, zero = np.asarray([params.scale], np.float32), params.zero_point
            data = self.numbers.quantize(constant, params)
            return self._constant(tensor, data, self.numbers.name, scale, 0, zero)
        if (tensor, params) not in self.in_integers:
            source = self.in_float.get(tensor)
            version = self.numbers.from_float
            if source is None:
                source, version = next(i for (t, _), i in self.in_integers.items() if t == tensor), 2
            suffix = f"{self.numbers.name.lower()}_{len(self.operators)}"
            self.in_integers[tensor, params] = self._new(tensor, suffix, self.numbers.name, params)
            self._convert("QUANTIZE", source, self.in_integers[tensor, params], version)
        return self.in_integers[tensor, params]

    def _as_float(self, tensor: int) -> int:
        if tensor in self.in_float:
            return self.in_float[tensor]
        source = next((i for (t, _), i in self.in_integers.items() if t == tensor), None)
        if source is None:
            source = self._halved(tensor)
        if source is None:  # a small constant, or no float tensor
            return tensor
        self.in_float[tensor] = self._new(tensor, "float", "FLOAT32", None)
        self._convert("DEQUANTIZE", source, self.in_float[tensor], self.numbers.to_float)
        return self.in_float[tensor]

    def _halved(self, tensor: int) -> int | None:
        """A constant in float16; None where that saves no bytes, or where float16 cannot hold it."""
        values = self.graph.constant(tensor)
        if values is None or not pays_in_half(values):
            return None
        name = self.graph.tensor(tensor).name.decode(errors="replace")
        return self.graph.add_tensor(f"{name}/half", values.shape, "FLOAT16", data=in_half(values))

    def _new(self, tensor: int, suffix: str, dtype: str, params: Params | None) -> int:
        name = self.graph.tensor(tensor).name.decode(errors="replace")
        return self.graph.add_tensor(f"{name}/{suffix}", self.graph.shape(tensor), dtype, params)

    def _constant(
        self, tensor: int, data: NDArray[Any], dtype: str, scales: NDArray[np.float32], axis: int, zero: int = 0
    ) -> int:
        """A quantized copy of a constant, one for all who want it with these scales."""
        key = (tensor, scales.tobytes() + bytes(str(zero), "ascii"))
        if key not in self.constants:
            self.constants[key] = self._new_constant(tensor, data, dtype, scales, axis, zero)
        return self.constants[key]

    def _new_constant(
        self, tensor: int, data: NDArray[Any], dtype: str, scales: NDArray[np.float32], axis: int, zero: int = 0
    ) -> int:
        """``data``, made of a constant and named after it."""
        name = self.graph.tensor(tensor).name.decode(errors="replace")
        index = self.graph.add_tensor(f"{name}/q{len(self.graph.subgraph.tensors)}", data.shape, dtype, data=data)
        self.graph.set_quantization(index, dtype, scales, np.full(len(scales), zero), axis)
        return index

    def _convert(self, kind: str, source: int, target: int, version: int) -> None:
        options = getattr(self.graph.schema, f"{kind.title()}OptionsT")()
        self.operators.append(self.graph.new_operator(kind, [source], [target], options, version))
