"""Weights of a float .onnx file in 8 bits; its activations stay float, or are rounded as the file runs.

w8       Conv(x, w)    becomes    Conv(x, Cast(w8) * scales)
dynamic  Conv(x, w)    becomes    Cast(ConvInteger(x8, w8)) * (scale of x8 * scales), x8 by DynamicQuantizeLinear

The first is smaller only. ONNX Runtime multiplies constants out when it loads the file, and computes as the float32
file does; a DequantizeLinear, which gives the same numbers, it would leave for every run (ENet at 256x512: 40 ms, the
float32 file 35).

ConvInteger gets bytes with the zero point 128, not signed ones: products of unsigned with signed numbers saturate on
x86 processors without VNNI, and ONNX Runtime's way for them takes four times as long (137 ms). Convolutions of groups,
transposed ones and linear layers have no fast integer kernel; their weights are multiplied out.

No pictures are needed. Exactness: a weight is within half a step of its channel's scale, an activation within half a
step of its tensor's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.channel_rounding import SMALLEST, along, round_channels
from mobileseg.errors import MissingExtraError, UsageError, unknown_option
from mobileseg.types import Quantized

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

RECIPES = {
    "w8": "weights int8, symmetric, a scale per output channel; activations float32",
    "dynamic": "weights int8, symmetric, a scale per output channel; activations rounded to 8 bits by each convolution",
}

_BYTE_ZERO = 128


def compress_weights(
    path: Path, precision: str, planned: None = None, options: Mapping[str, Any] | None = None
) -> Quantized:
    """Round the weights of the float32 file at ``path``, in place.

    ``precision``: ``"w8"`` or ``"dynamic"``. ``planned``: there is no plan of activations; none of the target's
    ``options`` changes anything. Raises `OptionError` for another precision, `UsageError` for a file that is no ONNX
    model, `MissingExtraError` without onnx.
    """
    if precision not in RECIPES:
        raise unknown_option("compression of ONNX weights", precision, RECIPES)
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnx", error.name or "onnx") from error
    try:
        model = onnx.load(path)
    except DecodeError as error:
        raise UsageError(f"{path} is not an ONNX file; expected what `convert --to onnx` writes.") from error
    rounding = _Rounding(model.graph, dynamic=precision == "dynamic")
    rounding.run()
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return Quantized(RECIPES[precision], tuple(rounding.kept_float))


class _Rounding:
    """Writes the nodes anew. ``constants``: the values of the graph's initializers, and new ones."""

    def __init__(self, graph: Any, *, dynamic: bool) -> None:
        from onnx import numpy_helper

        self.graph, self.dynamic = graph, dynamic
        self.constants: dict[str, NDArray[Any]] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.kept_float: list[str] = []
        self._nodes: list[Any] = []
        self._done: set[str] = set()

    def run(self) -> None:
        from onnx import numpy_helper

        for node in self.graph.node:
            self._take(node)
        used = {name for node in self._nodes for name in node.input} | {o.name for o in self.graph.output}
        self.graph.ClearField("node")
        self.graph.node.extend(self._nodes)
        self.graph.ClearField("initializer")
        self.graph.initializer.extend(
            numpy_helper.from_array(values, name) for name, values in self.constants.items() if name in used
        )

    def _take(self, node: Any) -> None:
        axis = _output_axis(node)
        weights = self.constants.get(node.input[1]) if axis is not None else None
        if axis is None or weights is None or weights.dtype != np.float32:
            self._nodes.append(node)
        elif weights.size < SMALLEST:
            self.kept_float.append(f"{node.op_type}: {node.output[0]}")
            self._nodes.append(node)
        elif self.dynamic and node.op_type == "Conv" and _attribute(node, "group", 1) == 1:
            self._in_integers(node, weights)
        else:
            node.input[1] = self._multiplied_out(node.input[1], weights, axis)
            self._nodes.append(node)

    def _multiplied_out(self, name: str, weights: NDArray[np.float32], axis: int) -> str:
        """The float weights, computed from int8 ones; once for all who read them."""
        result = f"{name}/float"
        if result not in self._done:
            numbers, scales = round_channels(weights, axis)
            self.constants[f"{name}/int8"] = numbers
            self.constants[f"{name}/scales"] = along(scales, axis, weights.ndim)
            self._add("Cast", [f"{name}/int8"], f"{name}/cast", to=_float())
            self._add("Mul", [f"{name}/cast", f"{name}/scales"], result)
            self._done.add(result)
        return result

    def _in_integers(self, node: Any, weights: NDArray[np.float32]) -> None:
        x, w, *bias = node.input
        result = node.output[0]
        numbers, scales = round_channels(weights, 0)
        self.constants[f"{w}/byte"] = (numbers.astype(np.int16) + _BYTE_ZERO).astype(np.uint8)
        self.constants[f"{w}/channel_scales"] = along(scales, 1, weights.ndim)
        self.constants["byte_zero"] = np.asarray(_BYTE_ZERO, np.uint8)
        if f"{x}/byte" not in self._done:
            self._add("DynamicQuantizeLinear", [x], f"{x}/byte", f"{x}/scale", f"{x}/zero")
            self._done.add(f"{x}/byte")
        self._add("ConvInteger", [f"{x}/byte", f"{w}/byte", f"{x}/zero", "byte_zero"], f"{result}/sums")
        self._nodes[-1].attribute.extend(node.attribute)
        self._nodes[-1].name = node.name
        self._add("Cast", [f"{result}/sums"], f"{result}/cast", to=_float())
        self._add("Mul", [f"{x}/scale", f"{w}/channel_scales"], f"{result}/scales")
        product = f"{result}/products" if bias else result
        self._add("Mul", [f"{result}/cast", f"{result}/scales"], product)
        if bias:
            self.constants[f"{bias[0]}/channels"] = along(self.constants[bias[0]], 1, weights.ndim)
            self._add("Add", [product, f"{bias[0]}/channels"], result)

    def _add(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> None:
        from onnx import helper

        self._nodes.append(helper.make_node(kind, inputs, list(outputs), name=outputs[0], **attributes))


def _output_axis(node: Any) -> int | None:
    """The axis of output channels of a learned operator's weights; None for another operator."""
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type)


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _float() -> int:
    from onnx import TensorProto

    return int(TensorProto.FLOAT)
