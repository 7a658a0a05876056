"""The graph reader of Core ML packages: operators, weights and in what form they are stored."""

from __future__ import annotations

from typing import Any

import pytest

from mobileseg.types import NotRun
from mobileseg.validation.graphs import read_graph

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
