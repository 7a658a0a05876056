"""TFLite files, read with LiteRT's schema and its interpreter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import MissingExtraError
from mobileseg.validation.graphs.base import ANY_SIZE, ONE_PICTURE, Delegation, Graph, Layer, counted, largest_first
from mobileseg.validation.graphs.costs import Call, Key, Listing, Tensor, counted_costs
from mobileseg.validation.graphs.rules import unknown
from mobileseg.validation.graphs.rules.tflite import RULES
from mobileseg.validation.graphs.tflite_versions import oldest_runtime
from mobileseg.validation.graphs.xnnpack import reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

DELEGATE = "DELEGATE"
"""What TFLite calls an operator that stands for all those a delegate took."""


def read(path: Path) -> Graph:
    """Raises `MissingExtraError` without ai-edge-litert."""
    try:
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise MissingExtraError("tflite", error.name or "ai_edge_litert") from error
    content = path.read_bytes()
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter._get_ops_details()
    model = schema.Model.GetRootAs(content, 0)
    constants = dict(_constants(model))
    plain = [d for d in details if d["op_name"] != DELEGATE]
    listed, notes = listing(interpreter, model)
    operations, peak = counted_costs(listed)
    return Graph(
        operators=counted(d["op_name"] for d in plain),
        weight_bytes=sum({buffer: size for buffer, size, _ in constants.values()}.values()),
        layers=largest_first(_layers(plain, constants, model.Subgraphs(0))),
        quantization=counted(kind for _, _, kind in constants.values()),
        delegation=replace(xnnpack_delegation(details), left=_left(interpreter)),
        operations=operations,
        peak=peak,
        oldest_runtime=oldest_runtime(_versions(schema, model)),
        notes=notes,
    )


def _versions(schema: Any, model: Any) -> Iterator[tuple[str, int]]:
    """(operator, version) of all that the file names."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        yield names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())], code.Version()


def listing(interpreter: Any, model: Any) -> tuple[Listing, tuple[str, ...]]:
    """The operators of an interpreter whose tensors are allocated, and what has to be said of them. ``model``: the
    file, in the schema's classes."""
    details = interpreter._get_ops_details()
    taken = {index for partition in partitions(details) for index in partition}
    tensors, notes = _tensors(interpreter, model)
    listed = Listing(
        calls=tuple(
            Call(
                operator=operator["op_name"],
                name=model.Subgraphs(0).Tensors(int(operator["outputs"][0])).Name().decode(errors="replace")
                if len(operator["outputs"])
                else operator["op_name"],
                rule=RULES.get(operator["op_name"], unknown),
                inputs={place: int(tensor) for place, tensor in enumerate(operator["inputs"]) if tensor >= 0},
                outputs=tuple(map(int, operator["outputs"])),
                delegated=operator["index"] in taken,
            )
            for operator in details
            if operator["op_name"] != DELEGATE
        ),
        tensors=tensors,
        inputs=tuple(int(d["index"]) for d in interpreter.get_input_details()),
        outputs=tuple(int(d["index"]) for d in interpreter.get_output_details()),
    )
    return listed, notes


def _tensors(interpreter: Any, model: Any) -> tuple[dict[Key, Tensor], tuple[str, ...]]:
    """Of the first subgraph. A length that the file leaves open is one, where it is the number of pictures."""
    known = {int(d["index"]): d for d in interpreter.get_tensor_details()}
    free = {axis for d in interpreter.get_input_details() for axis in np.flatnonzero(_open(d))}
    sized = free <= {0}
    stored = dict(_constants(model))
    types, graph = _types(), model.Subgraphs(0)

    def tensor(index: int) -> Tensor:
        dtype = types.get(graph.Tensors(index).Type(), "")
        size = stored[index][1] if index in stored else None
        if index not in known:
            return Tensor(None, dtype, size)
        details = known[index]
        lengths = zip(details["shape"], _open(details), strict=True)
        shape = tuple(None if is_open and not (sized and free) else int(n) for n, is_open in lengths)
        return Tensor(shape, dtype, size)

    notes = (ONE_PICTURE,) if free == {0} else (ANY_SIZE,) if free else ()
    return {index: tensor(index) for index in range(graph.TensorsLength())}, notes


def _open(details: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Which lengths of a tensor the file leaves open."""
    shape, signature = details["shape"], details["shape_signature"]
    return np.asarray(signature if len(signature) == len(shape) else shape) < 0


def _types() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {number: name.lower() for name, number in vars(schema.TensorType).items() if isinstance(number, int)}


def _constants(model: Any) -> Iterator[tuple[int, tuple[int, int, str]]]:
    """Index of each constant tensor of the first subgraph: its buffer, that buffer's bytes, how it is stored."""
    types, graph = _types(), model.Subgraphs(0)
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        size = model.Buffers(tensor.Buffer()).DataLength()
        if not size:
            continue
        kind, quantization = types[tensor.Type()], tensor.Quantization()
        scales = 0 if quantization is None else quantization.ScaleLength()
        stored = f"{kind} per channel" if scales > 1 else f"{kind} per tensor" if scales else kind
        yield index, (tensor.Buffer(), size, stored)


def _layers(
    operators: Sequence[Mapping[str, Any]], constants: Mapping[int, tuple[int, int, str]], graph: Any
) -> Iterator[Layer]:
    """Named after their largest constant."""
    seen: set[int] = set()
    for operator in operators:
        own = dict[int, int]()
        for index in (int(t) for t in operator["inputs"] if int(t) in constants):
            own.setdefault(constants[index][0], index)
        new = [index for buffer, index in own.items() if buffer not in seen]
        seen.update(own)
        if new:
            largest = max(new, key=lambda index: constants[index][1])
            size = sum(constants[index][1] for index in new)
            yield Layer(
                graph.Tensors(largest).Name().decode(errors="replace"),
                operator["op_name"],
                constants[largest][2],
                size,
            )


def xnnpack_delegation(details: Sequence[Mapping[str, Any]]) -> Delegation:
    """From the interpreter's list of operators, in which those that a delegate took stand beside the delegate's own."""
    found = partitions(details)
    taken = {index for partition in found for index in partition}
    names = {d["index"]: d["op_name"] for d in details}
    return Delegation("XNNPACK", counted(names[index] for index in taken), len(found))


def _left(interpreter: Any) -> dict[str, str]:
    """Why XNNPACK leaves operators, by their name: the different reasons of one name together."""
    details = interpreter._get_ops_details()
    taken = {index for partition in partitions(details) for index in partition}
    tensors = {int(d["index"]): d for d in interpreter.get_tensor_details()}
    found: dict[str, dict[str, None]] = {}
    for operator in details:
        if operator["op_name"] != DELEGATE and operator["index"] not in taken:
            sides = ([tensors[int(i)] for i in operator[s] if int(i) in tensors] for s in ("inputs", "outputs"))
            found.setdefault(operator["op_name"], {})[reason(operator["op_name"], *sides)] = None
    return {name: "; ".join(reasons) for name, reasons in found.items()}


def partitions(details: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, ...], ...]:
    """The operators (``index``) that each call of the delegate stands for, from the interpreter's list of operators.

    A partition's operators are those between its outputs and its inputs.
    """
    plain = {d["index"]: d for d in details if d["op_name"] != DELEGATE}
    maker = {int(tensor): d for d in plain.values() for tensor in d["outputs"]}
    taken: set[int] = set()

    def between(partition: Mapping[str, Any]) -> Iterator[int]:
        given = {int(tensor) for tensor in partition["inputs"]}
        open_tensors = [int(tensor) for tensor in partition["outputs"]]
        while open_tensors:
            tensor = open_tensors.pop()
            if tensor in given or tensor not in maker or maker[tensor]["index"] in taken:
                continue
            taken.add(maker[tensor]["index"])
            yield maker[tensor]["index"]
            open_tensors += [int(source) for source in maker[tensor]["inputs"]]

    return tuple(tuple(sorted(between(d))) for d in details if d["op_name"] == DELEGATE)
