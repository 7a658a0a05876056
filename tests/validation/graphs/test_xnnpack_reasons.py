"""Why XNNPACK leaves an operator: conditions that it has, each on tensors that miss it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mobileseg.validation.graphs.xnnpack import reason


def tensor(dtype: str = "float32", shape: tuple[int, ...] = (1, 4, 6, 8), scales: Any = ()) -> dict[str, Any]:
    """As LiteRT's interpreter details one."""
    parameters = {"scales": np.asarray(scales, np.float32)}
    return {"name": "weights", "dtype": np.dtype(dtype).type, "shape": shape, "quantization_parameters": parameters}


INT8 = tensor("int8", scales=[0.1])
DEAD = tensor("int8", (2, 3, 3, 8), [0.01, 1e-40])


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "said"),
    [
        ("ARG_MAX", [tensor(), tensor("int32", ())], tensor("int32"), "XNNPACK has no ARG_MAX"),
        ("ADD", [tensor("int32"), tensor("int32")], tensor("int32"), "XNNPACK's ADD does not take int32"),
        ("MAXIMUM", [INT8, INT8], INT8, "takes float32 alone, and this one computes with int8"),
        (
            "CONV_2D",
            [INT8, DEAD, tensor("int32", (2,), [0.1, 0.1])],
            INT8,
            "1 of 2 channels have a scale below 1.2e-38",
        ),
        ("TRANSPOSE", [tensor(shape=(1,) * 7)], tensor(shape=(1,) * 7), "at most 6 axes, and this one has 7"),
        ("TRANSPOSE_CONV", [tensor("int32", (4,)), tensor(), tensor("float16")], tensor(), "does not take float16"),
    ],
)
def test_the_condition_that_is_missed_is_named(
    operator: str, inputs: list[dict[str, Any]], output: dict[str, Any], said: str
) -> None:
    assert said in reason(operator, inputs, [output])


def test_a_condition_that_is_not_known_is_not_made_up() -> None:
    assert reason("CONV_2D", [tensor(), tensor(), tensor()], [tensor()]) == "XNNPACK does not say why"
