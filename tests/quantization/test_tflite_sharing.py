"""Constants of an int8 file lie in it once, and no runtime takes two layers of equal weights for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("ai_edge_litert", reason="install the extra: pip install 'mobileseg[tflite]'")

from ai_edge_litert.interpreter import Interpreter, OpResolverType

from mobileseg.converters.tflite import flatbuffer
from mobileseg.quantization.tflite import quantize_static
from mobileseg.quantization.tflite.flatbuffer import Graph
from mobileseg.quantization.tflite.operators import RULES

XNNPACK, REFERENCE = OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


@pytest.fixture(scope="module")
def repeated(repeated_model: bytes, pictures: Sequence[NDArray[np.uint8]]) -> bytes:
    return quantize_static(repeated_model, pictures[:2]).content


def weights_and_biases(graph: Graph) -> list[tuple[int, int]]:
    """Each convolution's and matrix product's tensors."""
    places = [(o, rule.weights) for o in graph.operators if (rule := RULES.get(graph.kind(o))) and rule.weights]
    return [(int(o.inputs[place.weights]), int(o.inputs[place.bias])) for o, place in places]


def unshared(content: bytes) -> bytes:
    """The same file with a buffer for each constant."""
    model = flatbuffer.read(content)
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None:
            tensor.buffer = flatbuffer.add_buffer(model, np.asarray(data, np.uint8).tobytes())
    return flatbuffer.write(model)


def run(content: bytes, picture: NDArray[np.uint8], resolver: Any) -> NDArray[np.float32]:
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture[None].astype(np.float32))
    interpreter.invoke()
    result: NDArray[np.float32] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return result


def run_with_weight_cache(path: Path, picture: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """By XNNPACK, its packed weights in a file, as an app asks for it to start faster."""
    compiled = pytest.importorskip("ai_edge_litert.compiled_model", reason="needs a LiteRT that has it")
    from ai_edge_litert.cpu_options import CpuOptions
    from ai_edge_litert.options import Options

    cache = path.with_suffix(".cache")
    options = Options(cpu_options=CpuOptions(num_threads=1, xnnpack_weight_cache_path=str(cache)))
    model = compiled.CompiledModel.from_file(str(path), options=options)
    sources, results = model.create_input_buffers(0), model.create_output_buffers(0)
    sources[0].write(picture[None].astype(np.float32))
    model.run_by_index(0, sources, results)
    assert cache.stat().st_size > 0
    found: NDArray[np.float32] = results[0].read(int(np.prod(shape)), np.float32)
    return found.reshape(shape)


def test_equal_weights_are_one_buffer(repeated: bytes) -> None:
    graph = Graph(repeated)
    buffers = Counter(graph.tensor(weights).buffer for weights, _ in weights_and_biases(graph))
    assert sorted(buffers.values()) == [1, 2, 2]


@pytest.mark.parametrize("resolver", [XNNPACK, REFERENCE])
def test_sharing_changes_no_bit_of_the_result(
    repeated: bytes, pictures: Sequence[NDArray[np.uint8]], resolver: Any
) -> None:
    apart = unshared(repeated)
    np.testing.assert_array_equal(run(repeated, pictures[2], resolver), run(apart, pictures[2], resolver))


@pytest.mark.parametrize("model", ["unpooling_model", "dead_channels_model"])
def test_where_nothing_is_equal_nothing_is_shared(
    model: str, pictures: Sequence[NDArray[np.uint8]], request: pytest.FixtureRequest
) -> None:
    graph = Graph(quantize_static(request.getfixturevalue(model), pictures[:2]).content)
    held = [graph.tensor(weights).buffer for weights, _ in weights_and_biases(graph)]
    assert len(set(held)) == len(held) == 3


def test_no_two_layers_share_a_bias(repeated: bytes) -> None:
    """XNNPACK's weight cache tells packed weights apart by the buffers of weights and bias."""
    graph = Graph(repeated)
    biases = [graph.tensor(bias).buffer for _, bias in weights_and_biases(graph)]
    assert len(set(biases)) == len(biases) == 5


def test_a_cache_of_packed_weights_changes_nothing(
    repeated: bytes, pictures: Sequence[NDArray[np.uint8]], tmp_path: Path
) -> None:
    path = tmp_path / "repeated.tflite"
    path.write_bytes(repeated)
    expected = run(repeated, pictures[2], XNNPACK)
    np.testing.assert_array_equal(run_with_weight_cache(path, pictures[2], expected.shape), expected)


def places(content: bytes, vector: str) -> list[int]:
    """Where in the file each tensor has its ``shape``, or its quantization's ``zero_point``."""
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    tables = [t._tab if vector == "shape" else t.Quantization()._tab for t in tensors if t.Quantization()]
    field = {"shape": 4, "zero_point": 10}[vector]
    return [table.Vector(table.Offset(field)) for table in tables if table.Offset(field)]


@pytest.mark.parametrize("vector", ["shape", "zero_point"])
def test_equal_vectors_of_numbers_lie_in_the_file_once(repeated: bytes, vector: str) -> None:
    found = places(repeated, vector)
    assert len(found) > 10
    assert len(set(found)) < 0.7 * len(found)
