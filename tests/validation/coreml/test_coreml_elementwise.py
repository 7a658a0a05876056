"""Elementwise operators and activations of the Core ML executor against torch, NumPy and coremltools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg.validation.coreml.operators import activation, elementwise

Case = Callable[[Any], Any]

EXTREMES = np.array([0, 1, -1, 2, -7, 46341, 2**31 - 1, -(2**31)], np.int32)


def wide(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).double()


def unary(
    name: str, expected: Callable[..., Any], low: float = -3, high: float = 3, odd: bool = True, **ranges: Any
) -> Case:
    """``ranges``: from what to what the parameters go."""

    def case(draw: Any) -> Any:
        x = draw.array(draw.shape(), low, high, odd)
        how = {parameter: draw.scalar(*ends) for parameter, ends in ranges.items()}
        return [x], lambda mb, x: getattr(mb, name)(x=x, **how), [expected(wide(x), **how)]

    return case


def of_integers_too(name: str, expected: Callable[..., Any], low: int, high: int, *, parameter: str = "") -> Case:
    """``parameter``: one that is of the type of x."""

    def case(draw: Any) -> Any:
        if draw.flag():
            x, number = draw.whole(draw.shape(), low, high), np.int32(draw.number(-2, 2))
        else:
            x, number = draw.array(draw.shape(), odd=True), draw.scalar(-2, 2)
        how = {parameter: number} if parameter else {}
        return [x], lambda mb, x: getattr(mb, name)(x=x, **how), [expected(wide(x), *how.values())]

    return case


def binary(name: str, expected: Callable[..., Any], whole: bool | None = None, divides: bool = False) -> Case:
    """Broadcast either way; of integers and of fractions, unless ``whole`` says which."""

    def case(draw: Any) -> Any:
        shape = draw.shape()
        other = tuple(draw.one(1, n) for n in shape)[draw.number(0, len(shape) - 1) :]
        integers = draw.flag() if whole is None else whole
        if integers and draw.flag():
            x, y = (EXTREMES[draw.whole(s, 0, len(EXTREMES) - 1)] for s in (shape, other))
        elif integers:
            x, y = draw.whole(shape, -3, 3), draw.whole(other, -3, 3)
        else:
            x, y = draw.array(shape, odd=not divides), draw.array(other, odd=not divides)
        if draw.flag():
            x, y = y, x
        if divides:
            y = np.where(y == 0, 2, y).astype(y.dtype)
            x = np.where((x == EXTREMES.min()) & (y == -1), 0, x).astype(x.dtype)  # the quotient is no int32
        with np.errstate(all="ignore"):
            return [x, y], lambda mb, x, y: getattr(mb, name)(x=x, y=y), [expected(x, y)]

    return case


def logical(name: str, expected: Callable[..., Any]) -> Case:
    def case(draw: Any) -> Any:
        shape = draw.shape()
        x, y = draw.whole(shape, 0, 1), draw.whole([draw.one(1, n) for n in shape], 0, 1)

        def build(mb: Any, x: Any, y: Any) -> Any:
            return getattr(mb, name)(x=mb.cast(x=x, dtype="bool"), y=mb.cast(x=y, dtype="bool"))

        return [x, y], build, [expected(x != 0, y != 0)]

    return case


def quotients(draw: Any) -> Any:
    """Of integers, what is declared an integer loses its fraction; of large ones, too, it is exact."""
    shape = draw.shape()
    if draw.flag():
        x, y = EXTREMES[draw.whole(shape, 0, len(EXTREMES) - 1)], draw.whole(shape, 1, 3) * draw.one(1, -1)
        x = np.maximum(x, -(2**31) + 1)
        why = ("coremltools' evaluation of integers is a fraction",)
        return [x, y], lambda mb, x, y: mb.real_div(x=x, y=y), [np.trunc(x.astype(np.float64) / y)], *why
    x, y = draw.array(shape, odd=True), draw.array(shape, odd=True)
    with np.errstate(all="ignore"):
        return [x, y], lambda mb, x, y: mb.real_div(x=x, y=y), [x.astype(np.float64) / y]


def powers(draw: Any) -> Any:
    shape = draw.shape()
    if draw.flag():
        x, y = draw.whole(shape, -3, 3), draw.whole(shape, 0, 4)
    else:
        x, y = draw.array(shape, 0.125, odd=True), draw.array(shape)
    with np.errstate(all="ignore"):
        return [x, y], lambda mb, x, y: mb.pow(x=x, y=y), [np.power(x, y)]


def casts(draw: Any) -> Any:
    """From integers that do not fit, the lowest bits; from fractions towards zero."""
    small = {"int8": np.int8, "uint8": np.uint8, "int16": np.int16, "uint16": np.uint16} if draw.ios > 16 else {}
    kinds = {"int32": np.int32, "bool": np.bool_, "fp16": np.float16, "fp32": np.float32, **small}
    first, second = draw.one(*kinds), draw.one(*kinds)
    if draw.flag():
        x = draw.whole(draw.shape(), -70000, 70000)
        x = np.where(np.abs(x) > 60000, x, x % 1000) if "fp16" not in (first, second) else x % 1000
    else:
        x = draw.array(draw.shape(), 0, 100)
    wanted = x.astype(kinds[first])
    if kinds[first] in (np.float16, np.float32) and second in small:
        second = "int32"  # a fraction outside an integer's range is nothing that MIL defines
    x = x.astype(np.int32) if x.dtype != np.float32 else x
    return (
        [x],
        lambda mb, x: mb.cast(x=mb.cast(x=x, dtype=first), dtype=second),
        [wanted.astype(kinds[second])],
    )


def rounding(draw: Any) -> Any:
    x = draw.whole(draw.shape(), -9, 9).astype(np.float32) / 2
    return [x], lambda mb, x: mb.round(x=x), [np.round(x)]


def selects(draw: Any) -> Any:
    """Broadcast among all three."""
    shape = draw.shape()
    cond = draw.whole([draw.one(1, n) for n in shape], 0, 1)
    if draw.flag():
        a, b = draw.whole(shape, -9, 9), draw.whole([draw.one(1, n) for n in shape], -9, 9)
    else:
        a, b = draw.array(shape, odd=True), draw.array([draw.one(1, n) for n in shape], odd=True)
    return (
        [cond, a, b],
        lambda mb, cond, a, b: mb.select(cond=mb.cast(x=cond, dtype="bool"), a=a, b=b),
        [np.where(cond, a, b)],
    )


def negations(draw: Any) -> Any:
    x = draw.whole(draw.shape(), 0, 1)
    return [x], lambda mb, x: mb.logical_not(x=mb.cast(x=x, dtype="bool")), [x == 0]


def channels(name: str, expected: Callable[..., Any], count: int) -> Case:
    """One or two vectors of a number a channel. Of 3 and of 5 axes, MIL wants all of prelu's to be equal."""

    def case(draw: Any) -> Any:
        x = draw.array(draw.shape(3, 5, 4), odd=name == "prelu")
        vectors = [draw.array(x.shape[1:2]) for _ in range(count)]
        if name == "prelu" and x.ndim != 4:
            vectors = [np.full_like(v, v[0]) for v in vectors]
        shaped = [wide(v).reshape(1, -1, *[1] * (x.ndim - 2)) for v in vectors]
        names = dict(zip(("alpha", "beta"), vectors, strict=False))
        return [x], lambda mb, x: getattr(mb, name)(x=x, **names), [expected(wide(x), *shaped)]

    return case


def softmaxes(draw: Any) -> Any:
    x = draw.array(draw.shape(), -20, 20)
    axis = draw.axis(x)
    return [x], lambda mb, x: mb.softmax(x=x, axis=axis), [wide(x).softmax(axis)]


def gelus(draw: Any) -> Any:
    x = draw.array(draw.shape(), -6, 6)
    mode, wanted = draw.one(
        ("EXACT", functional.gelu(wide(x))),
        ("TANH_APPROXIMATION", functional.gelu(wide(x), approximate="tanh")),
        ("SIGMOID_APPROXIMATION", wide(x) * torch.sigmoid(1.702 * wide(x))),
    )
    return [x], lambda mb, x: mb.gelu(x=x, mode=mode), [wanted]


def clips(draw: Any) -> Any:
    x, low = draw.array(draw.shape(), odd=True), draw.scalar(-2, 1)
    high = np.float32(low + draw.scalar(0.125, 2))
    return [x], lambda mb, x: mb.clip(x=x, alpha=low, beta=high), [wide(x).clamp(low, high)]


UNIT = {"alpha": (-2, 2), "beta": (-2, 2)}

CASES = {
    "abs": of_integers_too("abs", torch.abs, -9, 9),
    "acos": unary("acos", torch.acos, -1, 1),
    "add": binary("add", np.add),
    "asin": unary("asin", torch.asin, -1, 1),
    "atan": unary("atan", torch.atan),
    "atanh": unary("atanh", torch.atanh, -0.9, 0.9),
    "cast": casts,
    "ceil": unary("ceil", torch.ceil),
    "clamped_relu": unary(
        "clamped_relu",
        lambda x, alpha, beta: torch.where(x >= 0, x, alpha * x).clamp(max=beta),
        alpha=(-2, 2),
        beta=(0, 2),
    ),
    "clip": clips,
    "cos": unary("cos", torch.cos),
    "cosh": unary("cosh", torch.cosh),
    "elu": unary("elu", lambda x, alpha: torch.where(x > 0, x, alpha * (x.exp() - 1)), alpha=(-2, 2)),
    "equal": binary("equal", np.equal),
    "erf": unary("erf", torch.erf),
    "exp": unary("exp", torch.exp),
    "exp2": of_integers_too("exp2", torch.exp2, 0, 30),
    "floor": unary("floor", torch.floor),
    "floor_div": binary("floor_div", np.floor_divide, divides=True),
    "gelu": gelus,
    "greater": binary("greater", np.greater),
    "greater_equal": binary("greater_equal", np.greater_equal),
    "identity": of_integers_too("identity", lambda x: x, -9, 9),
    "inverse": unary("inverse", lambda x, epsilon: 1 / (x + epsilon), 0.5, epsilon=(0.125, 1)),
    "leaky_relu": unary("leaky_relu", lambda x, alpha: torch.where(x >= 0, x, alpha * x), alpha=(-2, 2)),
    "less": binary("less", np.less),
    "less_equal": binary("less_equal", np.less_equal),
    "linear_activation": unary("linear_activation", lambda x, alpha, beta: alpha * x + beta, **UNIT),
    "log": unary("log", lambda x, epsilon: torch.log(x + epsilon), 0, 3, epsilon=(0.125, 1)),
    "logical_and": logical("logical_and", np.logical_and),
    "logical_not": negations,
    "logical_or": logical("logical_or", np.logical_or),
    "logical_xor": logical("logical_xor", np.logical_xor),
    "maximum": binary("maximum", np.maximum),
    "minimum": binary("minimum", np.minimum),
    "mod": binary("mod", np.mod, divides=True),
    "mul": binary("mul", np.multiply),
    "not_equal": binary("not_equal", np.not_equal),
    "pow": powers,
    "prelu": channels("prelu", lambda x, a: torch.where(x > 0, x, a * x), 1),
    "real_div": quotients,
    "relu": unary("relu", torch.relu),
    "relu6": unary("relu6", lambda x: x.clamp(0, 6), -9, 9),
    "round": rounding,
    "rsqrt": unary("rsqrt", lambda x, epsilon: (x + epsilon).rsqrt(), 0, 3, epsilon=(0.125, 1)),
    "scaled_tanh": unary("scaled_tanh", lambda x, alpha, beta: alpha * torch.tanh(beta * x), **UNIT),
    "select": selects,
    "sigmoid": unary("sigmoid", torch.sigmoid),
    "sigmoid_hard": unary("sigmoid_hard", lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1), **UNIT),
    "sign": of_integers_too("sign", lambda x: torch.where(x.isnan(), x, x.sign()), -9, 9),
    "silu": unary("silu", functional.silu),
    "sin": unary("sin", torch.sin),
    "sinh": unary("sinh", torch.sinh),
    "softmax": softmaxes,
    "softplus": unary("softplus", functional.softplus, -30, 30),
    "softplus_parametric": channels(
        "softplus_parametric", lambda x, a, b: a * torch.logaddexp(b * x, torch.zeros(()).double()), 2
    ),
    "softsign": unary("softsign", functional.softsign),
    "sqrt": unary("sqrt", torch.sqrt, 0),
    "square": of_integers_too("square", torch.square, -46340, 46340),
    "sub": binary("sub", np.subtract),
    "tan": unary("tan", torch.tan, -1, 1),
    "tanh": unary("tanh", torch.tanh),
    "threshold": of_integers_too("threshold", lambda x, alpha: x.clamp(min=float(alpha)), -9, 9, parameter="alpha"),
    "thresholded_relu": unary("thresholded_relu", lambda x, alpha: torch.where(x < alpha, 0.0, x), alpha=(-2, 2)),
}


def test_every_operator_of_these_families_is_tested() -> None:
    assert set(CASES) == {*elementwise.OPERATORS, *activation.OPERATORS}


@pytest.mark.parametrize("kind", sorted(CASES))
@settings(settings.get_profile("operators"))
@given(data=st.data())
def test_operator(kind: str, check: Any, data: Any) -> None:
    check(kind, CASES[kind], data)


def test_every_parameter_of_these_operators_is_varied(check: Any) -> None:
    check.has_varied(set(CASES), fixed=set())


def test_a_quotient_of_integers_declared_an_integer_loses_its_fraction(check: Any) -> None:
    x, y = np.array([7, -7, 8, 2**31 - 1], np.int32), np.array([2, 2, 4, 1], np.int32)
    why = "its evaluation is a fraction"
    check.hold("real_div", [([x, y], lambda mb, x, y: mb.real_div(x=x, y=y), [[3, -3, 2, 2**31 - 1]], why)])


def test_numbers_that_are_added_unless_said_otherwise(check: Any) -> None:
    x = np.array([0.0, 1.0], np.float32)
    check.hold("inverse", [([x], lambda mb, x: mb.inverse(x=x), [[1e4, 1 / 1.0001]])])
    check.hold("rsqrt", [([x], lambda mb, x: mb.rsqrt(x=x), [[1e6, 1.0]])])
    check.hold("log", [([x], lambda mb, x: mb.log(x=x), [[np.log(2.0**-149), 0.0]])])
