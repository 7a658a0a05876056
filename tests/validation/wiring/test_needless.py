"""Pairs of operators that cancel, and operators that do nothing, in graphs written down by hand."""

from __future__ import annotations

import pytest

from mobileseg.validation.wiring import Operator, Value, Wiring
from mobileseg.validation.wiring.needless import needless

NHWC_TO_NCHW, NCHW_TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
PLANE, CHANNELS_FIRST = Value((1, 4, 6, 8), "float32"), Value((1, 8, 4, 6), "float32")
HALF, BYTE = Value((1, 4, 6, 8), "float16"), Value((1, 4, 6, 8), "int8", 0.5, 3)


def chain(*steps: tuple[str, Value] | tuple[str, Value, tuple[int, ...]], start: Value = PLANE) -> Wiring:
    """Operators one behind another: kind, what comes out, and the order of the axes where it transposes."""
    operators = [
        Operator(kind, f"{kind} {i}", (str(i),), (str(i + 1),), *order) for i, (kind, _, *order) in enumerate(steps)
    ]
    values = {"0": start, **{str(i): value for i, (_, value, *_) in enumerate(steps, 1)}}
    return Wiring(tuple(operators), values, (str(len(steps)),))


def read_twice(wiring: Wiring, key: str) -> Wiring:
    """With one more reader of a value."""
    reader = Operator("Relu", "reader", (key,), ("read",))
    return Wiring((*wiring.operators, reader), {**wiring.values, "read": PLANE}, (*wiring.outputs, "read"))


THERE_AND_BACK = chain(("TRANSPOSE", CHANNELS_FIRST, NHWC_TO_NCHW), ("TRANSPOSE", PLANE, NCHW_TO_NHWC))
TWO_TURNS = chain(("Transpose", Value((1, 6, 8, 4), ""), NCHW_TO_NHWC), ("Transpose", CHANNELS_FIRST, NCHW_TO_NHWC))


@pytest.mark.parametrize(
    "wiring",
    [
        pytest.param(THERE_AND_BACK, id="transpositions that cancel"),
        pytest.param(read_twice(THERE_AND_BACK, "1"), id="the same, with another reader between"),
        pytest.param(TWO_TURNS, id="transpositions that are one"),
        pytest.param(chain(("RESHAPE", Value((24, 8), "")), ("RESHAPE", Value((8, 24), ""))), id="reshapings"),
        pytest.param(chain(("reshape", Value((24, 8), "")), ("expand_dims", Value((1, 24, 8), ""))), id="ranks"),
        pytest.param(chain(("DEQUANTIZE", PLANE), ("QUANTIZE", BYTE), start=BYTE), id="quantized again, alike"),
        pytest.param(
            chain(("DEQUANTIZE", PLANE), ("QUANTIZE", Value(BYTE.shape, "int8", 0.25, 0)), start=BYTE),
            id="quantized again, otherwise",
        ),
        pytest.param(chain(("Cast", PLANE), ("Cast", HALF), start=HALF), id="widened and narrowed"),
        pytest.param(chain(("RESHAPE", PLANE)), id="a reshaping to the same shape"),
        pytest.param(chain(("StaticTranspose", PLANE, (0, 1, 2, 3))), id="a transposition of nothing"),
        pytest.param(chain(("QUANTIZE", BYTE), start=BYTE), id="a conversion to the same scale"),
        pytest.param(chain(("dim_order_ops._clone_dim_order", PLANE)), id="a copy"),
    ],
)
def test_what_need_not_be_there_is_named(wiring: Wiring) -> None:
    (sentence,) = needless(wiring)
    assert f"'{wiring.operators[0].name}'" in sentence


@pytest.mark.parametrize(
    "wiring",
    [
        pytest.param(chain(("TRANSPOSE", CHANNELS_FIRST, NHWC_TO_NCHW)), id="one transposition"),
        pytest.param(read_twice(TWO_TURNS, "1"), id="two that are no identity, with another reader between"),
        pytest.param(
            read_twice(chain(("RESHAPE", Value((24, 8), "")), ("RESHAPE", Value((8, 24), ""))), "1"),
            id="two shapes, each read",
        ),
        pytest.param(
            chain(("RESHAPE", Value((24, 8), "")), ("TRANSPOSE", Value((8, 24), ""), (1, 0)), ("RESHAPE", PLANE)),
            id="reshapings around a transposition",
        ),
        pytest.param(chain(("Cast", HALF), ("Cast", PLANE)), id="rounded to float16"),
        pytest.param(chain(("QUANTIZE", BYTE), ("DEQUANTIZE", PLANE)), id="rounded to int8"),
        pytest.param(chain(("QUANTIZE", BYTE), start=Value(BYTE.shape, "int8", 0.25, 0)), id="another scale"),
        pytest.param(chain(("CONV_2D", PLANE), ("CONV_2D", PLANE)), id="no mover at all"),
    ],
)
def test_what_changes_something_is_not_named(wiring: Wiring) -> None:
    assert needless(wiring) == ()


def test_what_works_on_constants_alone_is_no_pair() -> None:
    """fp16 files of TFLite widen their weights."""
    weights = Operator("DEQUANTIZE", "weights", (), ("w",))
    wiring = Wiring((weights, Operator("CAST", "x", ("w",), ("y",))), {"w": PLANE, "y": HALF}, ("y",))
    assert needless(wiring) == ()
