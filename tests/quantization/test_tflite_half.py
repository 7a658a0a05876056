"""Of what an int8 file computes in float, large constants lie in it in float16, and what it reads is not made int8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("ai_edge_litert", reason="install the extra: pip install 'mobileseg[tflite]'")

from ai_edge_litert.interpreter import Interpreter, OpResolverType

from mobileseg.converters.tflite import flatbuffer
from mobileseg.halves import FEWEST
from mobileseg.quantization.tflite import emitter
from mobileseg.quantization.tflite.flatbuffer import Graph
from mobileseg.quantization.tflite.observe import observe

Pictures = Sequence[NDArray[np.uint8]]
RESOLVERS = (OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)


def with_convolutions_in_float(float_model: bytes, pictures: Pictures, input_dtype: Any = "float32") -> bytes:
    graph = Graph(float_model)
    statistics, _ = observe(float_model, pictures)
    ranges = {i: (s.low, s.high) for i, s in statistics.items()}
    floats = frozenset(int(o.outputs[0]) for o in graph.operators if graph.kind(o) == "CONV_2D")
    emitter.Emitter(graph, ranges, input_dtype, "float32", floats).run()
    return graph.to_bytes()


def with_large_constants(float_model: bytes, change: Any) -> bytes:
    """The float file with the constants of `FEWEST` numbers and more changed."""
    model = flatbuffer.read(float_model)
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if tensor.type == Graph(float_model).schema.TensorType.FLOAT32 and data is not None and len(data) >= 4 * FEWEST:
            values = np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.float32)
            model.buffers[tensor.buffer].data = np.frombuffer(change(values).astype(np.float32).tobytes(), np.uint8)
    return flatbuffer.write(model)


def halves(content: bytes) -> list[Any]:
    """Float16 tensors, each with the kinds of what reads it."""
    graph = Graph(content)
    found = [i for i, t in enumerate(graph.subgraph.tensors) if t.type == graph.schema.TensorType.FLOAT16]
    return [(graph.shape(i), [graph.kind(o) for o in graph.operators if i in o.inputs]) for i in found]


def run(content: bytes, picture: NDArray[np.uint8], resolver: Any) -> NDArray[np.float32]:
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    fed = interpreter.get_input_details()[0]
    given = picture[None].astype(np.float32) if fed["dtype"] == np.float32 else picture[None].astype(np.int64) - 128
    interpreter.set_tensor(fed["index"], given.astype(fed["dtype"]))
    interpreter.invoke()
    result: NDArray[np.float32] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return result


def test_large_constants_are_float16_and_small_ones_stay(unpooling_model: bytes, pictures: Pictures) -> None:
    content = with_convolutions_in_float(unpooling_model, pictures)
    assert halves(content) == [((8, 3, 3, 8), ["DEQUANTIZE"])]  # 576 numbers; the other two have 216 and 32


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_nothing_but_their_rounding_changes(
    unpooling_model: bytes, pictures: Pictures, resolver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded = with_large_constants(unpooling_model, lambda values: values.astype(np.float16))
    halved = with_convolutions_in_float(rounded, pictures)
    monkeypatch.setattr(emitter, "pays_in_half", lambda values: False)
    plain = with_convolutions_in_float(rounded, pictures)
    assert halves(halved)
    assert not halves(plain)
    for picture in pictures[:2]:
        np.testing.assert_array_equal(run(halved, picture, resolver), run(plain, picture, resolver))


def test_what_float16_cannot_hold_stays(unpooling_model: bytes, pictures: Pictures) -> None:
    large = with_large_constants(unpooling_model, lambda values: values * 1e6)
    assert halves(with_convolutions_in_float(large, pictures)) == []


def test_a_file_wholly_in_int8_has_none(unpooling_model: bytes, pictures: Pictures) -> None:
    from mobileseg.quantization.tflite import quantize_static

    assert halves(quantize_static(unpooling_model, pictures).content) == []


def way_to(content: bytes, kind: str) -> list[str]:
    """The kinds of the operators from the input to the first one of a kind."""
    graph, found = Graph(content), []
    producers = graph.producers()
    operator = next(o for o in graph.operators if graph.kind(o) == kind)
    while int(operator.inputs[0]) in producers:
        operator = producers[int(operator.inputs[0])]
        found.insert(0, graph.kind(operator))
    return found


def test_the_padding_of_a_float_convolution_is_in_float(
    unpooling_model: bytes, branches_model: bytes, pictures: Pictures
) -> None:
    for model in (unpooling_model, branches_model):
        way = way_to(with_convolutions_in_float(model, pictures), "CONV_2D")
        assert way == way_to(model, "CONV_2D")
        assert "QUANTIZE" not in way


def test_what_is_there_in_int8_alone_is_moved_in_int8(unpooling_model: bytes, pictures: Pictures) -> None:
    content = with_convolutions_in_float(unpooling_model, pictures, "int8")
    way = way_to(content, "CONV_2D")
    assert way[-1] == "DEQUANTIZE"
    assert run(content, pictures[0], RESOLVERS[0]).shape[0] == 1
