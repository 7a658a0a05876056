"""A .tflite file as a graph that can be edited: tensors, constants, operators, and back to bytes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import MissingExtraError, MobilesegError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from mobileseg.quantization.params import Params

FILE_IDENTIFIER = b"TFL3"


def schema() -> Any:
    """The generated flatbuffer classes. Raises `MissingExtraError` where the package is absent."""
    try:
        from ai_edge_litert import schema_py_generated
    except ModuleNotFoundError:
        raise MissingExtraError("tflite", "ai_edge_litert") from None
    return schema_py_generated


class Graph:
    """The one subgraph of a model. Tensors go by their index, which editing never changes; `to_bytes` renumbers."""

    def __init__(self, content: bytes) -> None:
        """Raises `UsageError` for bytes that are no .tflite file, `MobilesegError` for a model of several subgraphs."""
        self.schema = schema()
        if content[4:8] != FILE_IDENTIFIER:
            raise UsageError(
                "These bytes are not a TFLite file; expected the float file that `convert --to tflite` writes."
            )
        self.model = self.schema.ModelT.InitFromObj(self.schema.Model.GetRootAs(content, 0))
        if len(self.model.subgraphs) != 1:
            raise MobilesegError(
                f"The TFLite file has {len(self.model.subgraphs)} subgraphs; quantization handles one."
            )
        self.subgraph = self.model.subgraphs[0]
        self._names = {v: k for k, v in vars(self.schema.BuiltinOperator).items() if not k.startswith("_")}

    # Reading

    @property
    def operators(self) -> list[Any]:
        return self.subgraph.operators  # type: ignore[no-any-return]

    @property
    def inputs(self) -> list[int]:
        return [int(i) for i in self.subgraph.inputs]

    @property
    def outputs(self) -> list[int]:
        return [int(i) for i in self.subgraph.outputs]

    def tensor(self, index: int) -> Any:
        return self.subgraph.tensors[index]

    def kind(self, operator: Any) -> str:
        """The builtin operator's name, ``"CONV_2D"``."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        return str(self._names[max(code.builtinCode, code.deprecatedBuiltinCode)])

    def shape(self, index: int) -> tuple[int, ...]:
        shape = self.tensor(index).shape
        return () if shape is None else tuple(int(n) for n in shape)

    def is_float(self, index: int) -> bool:
        return bool(index >= 0 and self.tensor(index).type == self.schema.TensorType.FLOAT32)

    def constant(self, index: int) -> NDArray[np.float32] | None:
        """A float constant's values; None for what is computed."""
        if not self.is_float(index):
            return None
        data = self.model.buffers[self.tensor(index).buffer].data
        if data is None or len(data) == 0:
            return None
        return np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.float32).reshape(self.shape(index))

    def users(self) -> Counter[int]:
        """How often each tensor is read; a graph output counts as one more reading."""
        return Counter([int(i) for o in self.operators for i in o.inputs] + self.outputs)

    def producers(self) -> dict[int, Any]:
        return {int(i): o for o in self.operators for i in o.outputs}

    def label(self, operator: Any) -> str:
        """``"CEIL: the output's name"``, for messages and reports."""
        name = self.tensor(operator.outputs[0]).name
        return f"{self.kind(operator)}: {name.decode(errors='replace') if isinstance(name, bytes) else name}"

    # Editing

    def add_tensor(
        self,
        name: str,
        shape: Iterable[int],
        dtype: str,
        params: Params | None = None,
        data: NDArray[Any] | None = None,
    ) -> int:
        """A new tensor of a ``TensorType``'s name, constant where ``data`` is given; its index."""
        tensor = self.schema.TensorT()
        tensor.name = name.encode()
        tensor.shape = np.asarray(tuple(shape), np.int32)
        tensor.hasRank = True
        tensor.buffer = 0 if data is None else self._add_buffer(data)
        self.subgraph.tensors.append(tensor)
        index = len(self.subgraph.tensors) - 1
        self.set_type(index, dtype, params)
        return index

    def set_type(self, index: int, dtype: str, params: Params | None) -> None:
        """Give a tensor another element type, quantized as a whole by ``params``."""
        scales = None if params is None else [params.scale]
        zero_points = None if params is None else [params.zero_point]
        self.set_quantization(index, dtype, scales, zero_points, 0)

    def set_quantization(
        self,
        index: int,
        dtype: str,
        scales: Sequence[float] | NDArray[np.float32] | None,
        zero_points: Sequence[int] | NDArray[np.int64] | None,
        axis: int,
    ) -> None:
        tensor = self.tensor(index)
        tensor.type = getattr(self.schema.TensorType, dtype)
        tensor.quantization = None
        if scales is not None:
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale = np.asarray(scales, np.float32)
            tensor.quantization.zeroPoint = np.asarray(zero_points, np.int64)
            tensor.quantization.quantizedDimension = axis

    def new_operator(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: Any = None, version: int = 1
    ) -> Any:
        """An operator that is not yet in the list. ``options``: the schema's ...OptionsT object, if it has one."""
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._code(getattr(self.schema.BuiltinOperator, kind), version)
        operator.inputs = np.asarray(inputs, np.int32)
        operator.outputs = np.asarray(outputs, np.int32)
        if options is not None:
            operator.builtinOptions = options
            name = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, name)
        return operator

    def raise_version(self, operator: Any, version: int) -> None:
        """Declare the operator's version that takes int8, where it is not declared already."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
        operator.opcodeIndex = self._code(builtin, max(version, code.version))

    def _code(self, builtin: int, version: int) -> int:
        codes = self.model.operatorCodes
        for i, code in enumerate(codes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin and code.version == version:
                return i
        code = self.schema.OperatorCodeT()
        # The older field is one byte wide; readers take the larger of the two.
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
        codes.append(code)
        return len(codes) - 1

    def _add_buffer(self, data: NDArray[Any]) -> int:
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    # Writing

    def to_bytes(self) -> bytes:
        """The file, without the tensors, buffers and operator codes that nothing uses any more, and with constants of
        equal bytes once. The graph is spent."""
        self._share_buffers()
        self._drop_unused()
        builder = _sharing_builder()
        builder.Finish(self.model.Pack(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _share_buffers(self) -> None:
        """One buffer for all constants of equal bytes, except biases (and the few shapes, which are INT32, too).

        XNNPACK's weight cache tells packed weights apart by the buffers of weights and bias alone, and packs the
        scales of input and output with them: convolutions that shared both would compute with the scales of the first.
        """
        shared: dict[bytes, int] = {}
        for tensor in self.subgraph.tensors:
            data = self.model.buffers[tensor.buffer].data
            if data is not None and len(data) and tensor.type != self.schema.TensorType.INT32:
                tensor.buffer = shared.setdefault(np.asarray(data, np.uint8).tobytes(), tensor.buffer)

    def _drop_unused(self) -> None:
        model, subgraph = self.model, self.subgraph
        used = {int(i) for o in self.operators for i in (*o.inputs, *o.outputs)} | set(self.inputs) | set(self.outputs)
        tensors = _renumber(used - {-1})
        subgraph.tensors = [subgraph.tensors[i] for i in tensors]
        subgraph.inputs = _mapped(subgraph.inputs, tensors)
        subgraph.outputs = _mapped(subgraph.outputs, tensors)
        for operator in self.operators:
            operator.inputs = _mapped(operator.inputs, tensors)
            operator.outputs = _mapped(operator.outputs, tensors)
        for signature in model.signatureDefs or []:
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = tensors[int(entry.tensorIndex)]
        # Buffer 0 is the empty one by definition of the format.
        buffers = _renumber({0} | {t.buffer for t in subgraph.tensors} | {m.buffer for m in model.metadata or []})
        model.buffers = [model.buffers[i] for i in buffers]
        for holder in (*subgraph.tensors, *(model.metadata or [])):
            holder.buffer = buffers[holder.buffer]
        model.metadataBuffer = None
        codes = _renumber({o.opcodeIndex for o in self.operators})
        model.operatorCodes = [model.operatorCodes[i] for i in codes]
        for operator in self.operators:
            operator.opcodeIndex = codes[operator.opcodeIndex]


def _sharing_builder() -> Any:
    """A builder that writes vectors of equal numbers (shapes, scales, the zero points of weights and biases: half of
    what quantizing ENet adds to a file) once; bytes, which constants are, as often as asked."""
    import flatbuffers

    class Sharing(flatbuffers.Builder):
        def CreateNumpyVector(self, x: NDArray[Any]) -> Any:  # noqa: N802  # the base's name
            if x.dtype == np.uint8:
                return super().CreateNumpyVector(x)
            key = (x.dtype.str, x.tobytes())
            if key not in written:
                written[key] = super().CreateNumpyVector(x)
            return written[key]

    written: dict[tuple[str, bytes], Any] = {}
    return Sharing(1 << 20)


def _renumber(used: set[int]) -> dict[int, int]:
    return {old: new for new, old in enumerate(sorted(used))}


def _mapped(indices: Iterable[int], numbers: dict[int, int]) -> NDArray[np.int32]:
    return np.asarray([-1 if i < 0 else numbers[int(i)] for i in indices], np.int32)
