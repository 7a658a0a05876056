"""The graph reader of Core ML packages: operators, weights and in what form they are stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobileseg.types import NotRun
from mobileseg.validation.graphs import Graph, read_graph
from mobileseg.validation.graphs.base import ANY_SIZE

# Weights and biases: 32 x 27 + 32, 40 x 32 + 40, 5 x 40 + 5 numbers; the gain is one number a channel.
NUMBERS = 896 + 1320 + 205
GAIN = 3 * 4


def test_graph_of_a_float32_package(make_mlpackage: Any) -> None:
    graph = read_graph(make_mlpackage())
    assert dict(graph.operators) == {"conv": 3, "mul": 1, "relu": 1}
    assert graph.weight_bytes == 4 * NUMBERS + GAIN
    assert dict(graph.quantization) == {"float32": 7}
    assert [(layer.operator, layer.bytes) for layer in graph.layers] == [
        ("conv", 4 * 1320),
        ("conv", 4 * 896),
        ("conv", 4 * 205),
        ("mul", GAIN),
    ]
    assert isinstance(graph.delegation, NotRun)


@pytest.mark.parametrize(
    ("precision", "kind", "stored"),
    [
        ("fp16", "float16", 2 * 1280),
        # A scale for each of 40 channels; Core ML's affine form also has zero points.
        ("w8", "int8 per channel", 1280 + 2 * 40 + 40),
        ("palette4", "palette 4 bit", 1280 // 2 + 2 * 16),
        ("palette6", "palette 6 bit", 1280 * 6 // 8 + 2 * 64),
        ("palette8", "palette 8 bit", 1280 + 2 * 256),
    ],
)
def test_graph_of_a_compressed_package(make_mlpackage: Any, precision: str, kind: str, stored: int) -> None:
    graph = read_graph(make_mlpackage(precision))
    (largest, *_) = sorted(graph.layers, key=lambda layer: "conv2d_1" not in layer.name)
    assert (largest.operator, largest.dtype, largest.bytes) == ("conv", kind, stored + 2 * 40)
    assert graph.quantization[kind] == (6 if precision == "fp16" else 1)
    assert dict(graph.operators) == {"conv": 3, "cast": 2, "mul": 1, "relu": 1}
    assert graph.weight_bytes == 2 * (NUMBERS - 1280) + stored + GAIN


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., Graph]:
    """The graph of a package made of MIL's own operators. ``build(mb, x)`` gives the result."""
    coremltools = pytest.importorskip("coremltools")

    def make(shape: tuple[Any, ...], build: Callable[..., Any]) -> Graph:
        from coremltools.converters.mil import Builder as mb  # noqa: N813

        from mobileseg.mlpackage import quietly

        system = coremltools.target.iOS17

        @mb.program(input_specs=[mb.TensorSpec(shape=shape)], opset_version=system)
        def program(x: Any) -> Any:
            return build(mb, x)

        with quietly():
            model = coremltools.convert(
                program,
                convert_to="mlprogram",
                minimum_deployment_target=system,
                compute_precision=coremltools.precision.FLOAT32,
                skip_model_load=True,
            )
            model.save(str(tmp_path / "built.mlpackage"))
        return read_graph(tmp_path / "built.mlpackage")

    return make


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("shape", "build", "kind", "macs"),
    [
        ((1, 6, 8, 10), lambda mb, x: mb.conv(x=x, weight=floats(4, 6, 3, 3)), "convolution", 6 * 8 * 4 * 54),
        ((1, 6, 8, 10), lambda mb, x: mb.conv(x=x, weight=floats(4, 3, 3, 3), groups=2), "grouped", 6 * 8 * 4 * 27),
        ((1, 6, 8, 10), lambda mb, x: mb.conv(x=x, weight=floats(6, 1, 3, 3), groups=6), "depthwise", 6 * 8 * 6 * 9),
        (
            (1, 6, 8, 10),
            lambda mb, x: mb.conv_transpose(x=x, weight=floats(6, 4, 2, 2), strides=[2, 2]),
            *("transposed", 80 * 6 * 4 * 4),
        ),
        ((2, 8, 10), lambda mb, x: mb.linear(x=x, weight=floats(7, 10)), "matrix product", 16 * 70),
        (
            (8, 10),
            lambda mb, x: mb.matmul(x=x, y=floats(7, 8), transpose_x=True, transpose_y=True),
            *("matrix product", 10 * 8 * 7),
        ),
    ],
)
def test_multiply_accumulates(built: Any, shape: Any, build: Any, kind: str, macs: int) -> None:
    (operation,) = built(shape, build).operations
    assert operation.kind.startswith(kind)
    assert (operation.macs, operation.delegated) == (macs, None)


def test_operators_that_are_not_known_count_their_bytes(built: Any) -> None:
    def build(mb: Any, x: Any) -> Any:
        return mb.einsum(values=(x, mb.mul(x=x, y=np.float32(2))), equation="abcd,adce->abce")

    graph = built((1, 3, 3, 3), build)
    assert [(o.operator, o.kind, o.macs) for o in graph.operations] == [
        ("mul", "elementwise", 0),
        ("einsum", "unknown", None),
    ]
    assert (graph.operations[1].bytes_read, graph.operations[1].bytes_written) == (2 * 108, 108)


def test_pictures_of_more_than_one_size_are_said_and_not_counted(built: Any) -> None:
    from coremltools.converters.mil.mil import get_new_symbol

    shape = (1, 6, get_new_symbol(), get_new_symbol())
    graph = built(shape, lambda mb, x: mb.conv(x=x, weight=floats(4, 6, 1, 1)))
    (operation,) = graph.operations
    assert (operation.shape, operation.macs) == ((1, 4, None, None), None)
    assert graph.notes == (ANY_SIZE,)
    assert isinstance(graph.peak, NotRun)
