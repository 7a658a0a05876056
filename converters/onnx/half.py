"""fp16 for ONNX: weights and activations in float16, the picture and the result in float32.

Before: picture -> Mul -> Conv -> ... -> logits                                  all float32
After:  picture -> Mul -> Cast(16) -> Conv -> ... -> Cast(32) -> logits          all between the Casts float16

Kept in float32, each between Casts:
- the preprocessing. It is one or two operators, and a gain such as 1 / 255 rounded to float16 would change the
  brightness of every picture by up to 0.05 %;
- Softmax, whose small probabilities float16 cannot hold;
- the comparison of a window's elements with its maximum (`passes.rewrite_unpooling`), from one Cast in front of the
  pooling to Sign or Ceil. A runtime without float16 kernels for all operators computes some in float32 and leaves out
  roundings that it thinks needless: ONNX Runtime's CPU provider pools the numbers before their rounding and subtracts
  them after it, and no element equals its maximum any more. Here both read one tensor, and differences that float16
  could flush to zero are seen;
- operators with a constant that float16 cannot hold: a finite number beyond 65504, or a tensor that is subnormal
  throughout (all below 6.1e-5);
- on demand the first layers, whose roundings grow through all the others (`mobileseg.making`).

Constants are rounded to nearest, infinities stay infinite. Inputs that ONNX defines as float32 or integer whatever the
data (the scales of Resize, shapes, axes) stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import RewriteError
from mobileseg.halves import fits_half, in_half

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALWAYS_FLOAT32 = {"Resize": (1, 2)}
"""Inputs that are float32 whatever the operator computes in: regions of interest, scales."""

_WIDE = frozenset({"Softmax"})
_COMPARISON_ENDS = frozenset({"Sign", "Ceil"})
_COMPARISON = frozenset(
    {"Sub", "Min", "Clip", "MaxPool", "Slice", "Split", "Reshape", "Transpose", "Pad", "Gather", "Concat"}
)
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_AFFINE = frozenset({"Mul", "Add", "Sub", "Div"})


def to_half(model: Any, float32_share: float = 0.0) -> Any:
    """A float16 copy of a float32 model without subgraphs, in which the first ``float32_share`` of the layers, and what
    is computed before the next one, stay float32. Raises `RewriteError` for one with subgraphs."""
    import onnx

    converted = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    _Conversion(converted.graph, float32_share).run()
    return converted


class _Conversion:
    """One pass over the nodes in order; ``casts`` are the ones already there, by value and type."""

    def __init__(self, graph: Any, float32_share: float) -> None:
        from onnx import TensorProto, numpy_helper

        self.graph = graph
        self.float32_share = float32_share
        self.float32, self.float16 = TensorProto.FLOAT, TensorProto.FLOAT16
        self.constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        typed = [*graph.input, *graph.output, *graph.value_info]
        self.floats = {v.name for v in typed if v.type.tensor_type.elem_type == self.float32}
        self.floats |= {name for name, values in self.constants.items() if values.dtype == np.float32}
        self.halves: set[str] = set()
        self.casts: dict[tuple[str, int], str] = {}
        self.nodes: list[Any] = []
        self.initializers: dict[str, NDArray[Any]] = {}

    def run(self) -> None:
        from onnx import numpy_helper

        results = {o.name for o in self.graph.output}
        wide = {*self._preprocessing(), *self._leading(), *self._comparisons()}
        for index, node in enumerate(list(self.graph.node)):
            if any(a.HasField("g") or a.graphs for a in node.attribute):
                raise RewriteError(
                    f"'{node.name}' ({node.op_type}) holds a graph of its own, which the fp16 conversion does not "
                    "enter. Use --precision fp32."
                )
            if index in wide or node.op_type in _WIDE or not self._constants_fit(node):
                self._keep(node)
            else:
                self._halve(node, results)
        self.graph.ClearField("node")
        self.graph.node.extend(self.nodes)
        self.graph.ClearField("initializer")
        self.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in self.initializers.items())
        self.graph.ClearField("value_info")

    def _preprocessing(self) -> Iterator[int]:
        """The nodes that turn the picture into the network's input: gains, offsets, a 1x1 channel exchange."""
        value = self.graph.input[0].name
        while True:
            users = [(i, n) for i, n in enumerate(self.graph.node) if value in n.input]
            if len(users) != 1:
                return
            index, node = users[0]
            others = [self.constants.get(name) for name in node.input if name != value]
            affine = node.op_type in _AFFINE and all(c is not None for c in others)
            exchange = node.op_type == "Conv" and others[0] is not None and others[0].shape == (3, 3, 1, 1)
            if not (affine or exchange):
                return
            yield index
            value = node.output[0]

    def _leading(self) -> range:
        layers = [i for i, node in enumerate(self.graph.node) if node.op_type in _LAYERS]
        kept = math.ceil(self.float32_share * len(layers))
        return range([*layers, len(self.graph.node)][kept] if kept else 0)

    def _comparisons(self) -> set[int]:
        """The nodes of the masks: from Sign or Ceil back over what compares and what only moves numbers."""
        producers = {name: i for i, node in enumerate(self.graph.node) for name in node.output}
        found: set[int] = set()
        reached = [i for i, node in enumerate(self.graph.node) if node.op_type in _COMPARISON_ENDS]
        while reached:
            index = reached.pop()
            found.add(index)
            before = [producers[name] for name in self.graph.node[index].input if name in producers]
            reached += [i for i in before if i not in found and self.graph.node[i].op_type in _COMPARISON]
        return found

    def _constants_fit(self, node: Any) -> bool:
        exempt = ALWAYS_FLOAT32.get(node.op_type, ())
        constants = [self.constants[n] for i, n in enumerate(node.input) if i not in exempt and n in self.constants]
        return all(fits_half(values) for values in constants if values.dtype == np.float32)

    def _keep(self, node: Any) -> None:
        self._type_inputs(node, self.float32)
        self.nodes.append(node)

    def _halve(self, node: Any, results: set[str]) -> None:
        from onnx import numpy_helper

        self._type_inputs(node, self.float16)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == self.float32:
                attribute.i = self.float16
            elif attribute.HasField("t") and attribute.t.data_type == self.float32:
                attribute.t.CopyFrom(numpy_helper.from_array(in_half(numpy_helper.to_array(attribute.t))))
        self.nodes.append(node)
        for position, name in enumerate(node.output):
            if name not in self.floats:
                continue
            if name not in results:
                self.halves.add(name)
                continue
            node.output[position] = self.casts[name, self.float16] = f"{name}_fp16"
            self._cast(f"{name}_fp16", name, self.float32)

    def _type_inputs(self, node: Any, dtype: int) -> None:
        exempt = ALWAYS_FLOAT32.get(node.op_type, ())
        for position, name in enumerate(node.input):
            if name in self.floats:
                node.input[position] = self._as(name, self.float32 if position in exempt else dtype)
            elif name in self.constants:
                self.initializers[name] = self.constants[name]

    def _as(self, name: str, dtype: int) -> str:
        """The name under which a float value has this type; a Cast (or a rounded constant) is added if needed."""
        if name in self.constants:
            half = dtype == self.float16
            new = f"{name}_fp16" if half else name
            self.initializers[new] = in_half(self.constants[name]) if half else self.constants[name]
            return new
        if (name in self.halves) == (dtype == self.float16):
            return name
        if (name, dtype) not in self.casts:
            self.casts[name, dtype] = f"{name}_{'fp16' if dtype == self.float16 else 'fp32'}"
            self._cast(name, self.casts[name, dtype], dtype)
        return self.casts[name, dtype]

    def _cast(self, source: str, target: str, dtype: int) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=dtype))
