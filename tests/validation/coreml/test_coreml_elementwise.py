"""Elementwise operators and activations of the Core ML executor against torch, NumPy and coremltools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch.nn import functional

pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg.validation.coreml.operators import activation, elementwise

NEWER = {"cast": "iOS17"}
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def array(data: Any, shape: tuple[int, ...], low: float = -3, high: float = 3, whole: bool = False) -> np.ndarray:
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 16)))
    if whole:
        return rng.integers(int(low), int(high), shape).astype(np.int32)
    return rng.uniform(low, high, shape).astype(np.float32)


def unary(
    name: str, expected: Callable[[torch.Tensor], torch.Tensor], low: float = -3, high: float = 3, **more: Any
) -> Callable[[Any], Any]:
    def case(data: Any) -> Any:
        x = array(data, data.draw(SHAPES), low, high)
        return [x], lambda mb, x: getattr(mb, name)(x=x, **more), [expected(torch.from_numpy(x).double())]

    return case


def binary(
    name: str,
    expected: Callable[[np.ndarray, np.ndarray], np.ndarray],
    whole: bool | None = None,
    logical: bool = False,
    low: float = -3,
) -> Callable[[Any], Any]:
    """Broadcast either way; of integers and of fractions, unless ``whole`` says which."""

    def case(data: Any) -> Any:
        shape = data.draw(SHAPES)
        other = tuple(data.draw(st.sampled_from((1, n))) for n in shape)[data.draw(st.integers(0, len(shape) - 1)) :]
        integers = data.draw(st.booleans()) if whole is None else whole
        x, y = array(data, shape, low, whole=integers), array(data, other, low, whole=integers)
        if data.draw(st.booleans()):
            x, y = y, x
        if "div" in name or name == "mod":
            y = np.where(y == 0, 2, y).astype(y.dtype)
        if logical:
            return (
                [x, y],
                lambda mb, x, y: getattr(mb, name)(x=mb.cast(x=x, dtype="bool"), y=mb.cast(x=y, dtype="bool")),
                [expected(x != 0, y != 0)],
            )
        return [x, y], lambda mb, x, y: getattr(mb, name)(x=x, y=y), [expected(x, y)]

    return case


def powers(data: Any) -> Any:
    shape = data.draw(SHAPES)
    x, y = array(data, shape, 0.1), array(data, shape)
    return [x, y], lambda mb, x, y: mb.pow(x=x, y=y), [np.power(x, y)]


def casts(data: Any) -> Any:
    x = array(data, data.draw(SHAPES), -5, 5)
    dtype, wanted = data.draw(
        st.sampled_from((("int32", np.int32), ("bool", np.bool_), ("fp16", np.float16), ("int8", np.int8)))
    )
    return [x], lambda mb, x: mb.cast(x=x, dtype=dtype), [x.astype(wanted)]


def rounding(data: Any) -> Any:
    x = array(data, data.draw(SHAPES), -9, 9, whole=True).astype(np.float32) / 2
    return [x], lambda mb, x: mb.round(x=x), [np.round(x)]


def selects(data: Any) -> Any:
    shape = data.draw(SHAPES)
    cond, a, b = array(data, shape, 0, 2, whole=True), array(data, shape), array(data, shape)
    return (
        [cond, a, b],
        lambda mb, cond, a, b: mb.select(cond=mb.cast(x=cond, dtype="bool"), a=a, b=b),
        [np.where(cond, a, b)],
    )


def negations(data: Any) -> Any:
    x = array(data, data.draw(SHAPES), 0, 2, whole=True)
    return [x], lambda mb, x: mb.logical_not(x=mb.cast(x=x, dtype="bool")), [x == 0]


def channels(name: str, expected: Callable[..., torch.Tensor], count: int) -> Callable[[Any], Any]:
    """One or two vectors of a number a channel."""

    def case(data: Any) -> Any:
        x = array(data, data.draw(st.tuples(*[st.integers(1, 4)] * 4)))
        vectors = [array(data, x.shape[1:2]) for _ in range(count)]
        shaped = [torch.from_numpy(v).double().reshape(1, -1, 1, 1) for v in vectors]
        names = dict(zip(("alpha", "beta"), vectors, strict=False))
        return (
            [x],
            lambda mb, x: getattr(mb, name)(x=x, **names),
            [expected(torch.from_numpy(x).double(), *shaped)],
        )

    return case


def softmaxes(data: Any) -> Any:
    x = array(data, data.draw(SHAPES), -20, 20)
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    return [x], lambda mb, x: mb.softmax(x=x, axis=axis), [torch.from_numpy(x).double().softmax(axis)]


def gelus(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    wide = torch.from_numpy(x).double()
    mode, wanted = data.draw(
        st.sampled_from(
            (
                ("EXACT", functional.gelu(wide)),
                ("TANH_APPROXIMATION", functional.gelu(wide, approximate="tanh")),
                ("SIGMOID_APPROXIMATION", wide * torch.sigmoid(1.702 * wide)),
            )
        )
    )
    return [x], lambda mb, x: mb.gelu(x=x, mode=mode), [wanted]


CASES = {
    "abs": unary("abs", torch.abs),
    "acos": unary("acos", torch.acos, -0.9, 0.9),
    "add": binary("add", np.add),
    "asin": unary("asin", torch.asin, -0.9, 0.9),
    "atan": unary("atan", torch.atan),
    "atanh": unary("atanh", torch.atanh, -0.9, 0.9),
    "cast": casts,
    "ceil": unary("ceil", torch.ceil),
    "clamped_relu": unary(
        "clamped_relu", lambda x: torch.where(x >= 0, x, 0.25 * x).clamp(max=1.5), alpha=0.25, beta=1.5
    ),
    "clip": unary("clip", lambda x: x.clamp(-1.5, 0.5), alpha=-1.5, beta=0.5),
    "cos": unary("cos", torch.cos),
    "cosh": unary("cosh", torch.cosh),
    "elu": unary("elu", lambda x: torch.where(x > 0, x, 0.5 * (x.exp() - 1)), alpha=0.5),
    "equal": binary("equal", np.equal),
    "erf": unary("erf", torch.erf),
    "exp": unary("exp", torch.exp),
    "exp2": unary("exp2", torch.exp2),
    "floor": unary("floor", torch.floor),
    "floor_div": binary("floor_div", np.floor_divide),
    "gelu": gelus,
    "greater": binary("greater", np.greater),
    "greater_equal": binary("greater_equal", np.greater_equal),
    "identity": unary("identity", lambda x: x),
    "inverse": unary("inverse", lambda x: 1 / (x + 1e-4), 0.5),
    "leaky_relu": unary("leaky_relu", lambda x: torch.where(x >= 0, x, 0.1 * x), alpha=0.1),
    "less": binary("less", np.less),
    "less_equal": binary("less_equal", np.less_equal),
    "linear_activation": unary("linear_activation", lambda x: 2 * x - 0.5, alpha=2.0, beta=-0.5),
    "log": unary("log", lambda x: torch.log(x + 0.125), 0, 3, epsilon=0.125),
    "logical_and": binary("logical_and", np.logical_and, whole=True, logical=True),
    "logical_not": negations,
    "logical_or": binary("logical_or", np.logical_or, whole=True, logical=True),
    "logical_xor": binary("logical_xor", np.logical_xor, whole=True, logical=True),
    "maximum": binary("maximum", np.maximum),
    "minimum": binary("minimum", np.minimum),
    "mod": binary("mod", np.mod),
    "mul": binary("mul", np.multiply),
    "not_equal": binary("not_equal", np.not_equal),
    "pow": powers,
    "prelu": channels("prelu", lambda x, a: torch.where(x > 0, x, a * x), 1),
    "real_div": binary("real_div", np.divide, whole=False),
    "relu": unary("relu", torch.relu),
    "relu6": unary("relu6", lambda x: x.clamp(0, 6), -9, 9),
    "round": rounding,
    "rsqrt": unary("rsqrt", lambda x: (x + 1e-3).rsqrt(), 0, 3, epsilon=1e-3),
    "scaled_tanh": unary("scaled_tanh", lambda x: 1.5 * torch.tanh(0.5 * x), alpha=1.5, beta=0.5),
    "select": selects,
    "sigmoid": unary("sigmoid", torch.sigmoid),
    "sigmoid_hard": unary("sigmoid_hard", functional.hardsigmoid, -5, 5, alpha=np.float32(1 / 6), beta=0.5),
    "sign": unary("sign", torch.sign),
    "silu": unary("silu", functional.silu),
    "sin": unary("sin", torch.sin),
    "sinh": unary("sinh", torch.sinh),
    "softmax": softmaxes,
    "softplus": unary("softplus", functional.softplus, -30, 30),
    "softplus_parametric": channels("softplus_parametric", lambda x, a, b: a * torch.log1p(torch.exp(b * x)), 2),
    "softsign": unary("softsign", functional.softsign),
    "sqrt": unary("sqrt", torch.sqrt, 0),
    "square": unary("square", torch.square),
    "sub": binary("sub", np.subtract),
    "tan": unary("tan", torch.tan, -1, 1),
    "tanh": unary("tanh", torch.tanh),
    "threshold": unary("threshold", lambda x: x.clamp(min=0.5), alpha=0.5),
    "thresholded_relu": unary("thresholded_relu", lambda x: torch.where(x >= 0.5, x, 0.0), alpha=0.5),
}


def test_every_operator_of_these_families_is_tested() -> None:
    assert set(CASES) == {*elementwise.OPERATORS, *activation.OPERATORS}


@pytest.mark.parametrize("kind", sorted(CASES))
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(data=st.data())
def test_operator(kind: str, check: Any, data: Any) -> None:
    target = NEWER.get(kind) or data.draw(st.sampled_from(("iOS16", "iOS17", "iOS18")))
    check(kind, [CASES[kind](data) for _ in range(6)], target)


def test_a_quotient_of_integers_declared_an_integer_loses_its_fraction(check: Any) -> None:
    x, y = np.array([7, -7, 8], np.int32), np.array([2, 2, 4], np.int32)
    check("real_div", [([x, y], lambda mb, x, y: mb.real_div(x=x, y=y), [[3, -3, 2]])])


def test_defaults_are_those_of_the_operator_set(check: Any) -> None:
    x = np.array([0.0, 1.0], np.float32)
    check("inverse", [([x], lambda mb, x: mb.inverse(x=x), [[1e4, 1 / 1.0001]])])
    check("rsqrt", [([x], lambda mb, x: mb.rsqrt(x=x), [[1e6, 1.0]])])
