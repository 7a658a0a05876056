"""Values are called after the checkpoint's layers."""

from __future__ import annotations

from typing import Any

import pytest

from mobileseg.quantization.program.names import head_of, layers_of, named
from mobileseg.quantization.program.values import name_of, units_of, values_of


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_convolutions_have_their_own_layer_and_what_follows_has_the_one_before(target: str, rewritten: Any) -> None:
    module = rewritten(target=target)
    layers = layers_of(module)
    convolutions = [layers[node] for node in module.graph.nodes if name_of(node) == "conv2d"]
    assert {"first", "middle", "side", "last"} <= set(convolutions)
    called = [node for node in module.graph.nodes if node.op == "call_function"]
    assert all(layers[node] for node in called)  # the preprocessing, too: after what reads it
    picture = next(iter(module.graph.nodes))
    assert layers[picture] == ""
    assert named(picture, layers) == picture.name


def test_a_unit_is_called_after_its_convolution(rewritten: Any) -> None:
    module = rewritten()
    values = values_of(module)
    heads = [head_of(unit, values) for unit in units_of(values, module)]
    fused = next(unit for unit in units_of(values, module) if {"conv2d", "relu"} <= {name_of(n) for n in unit})
    assert name_of(head_of(fused, values)) == "conv2d"
    assert len(set(heads)) == len(heads)
