"""Operators that compute each element by itself, with NumPy's broadcasting.

Source: ``elementwise_unary.py``, ``elementwise_binary.py`` and ``control_flow.py`` (select) of coremltools' MIL.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mobileseg.validation.coreml.operators.base import DTYPES, operator


def absolute(x: Tensor) -> Tensor:
    return x.abs()


def acos(x: Tensor) -> Tensor:
    return x.acos()


def asin(x: Tensor) -> Tensor:
    return x.asin()


def atan(x: Tensor) -> Tensor:
    return x.atan()


def atanh(x: Tensor) -> Tensor:
    return x.atanh()


def ceil(x: Tensor) -> Tensor:
    return x.ceil()


def cos(x: Tensor) -> Tensor:
    return x.cos()


def cosh(x: Tensor) -> Tensor:
    return x.cosh()


def erf(x: Tensor) -> Tensor:
    return x.erf()


def exp(x: Tensor) -> Tensor:
    return x.exp()


def exp2(x: Tensor) -> Tensor:
    return x.exp2()


def floor(x: Tensor) -> Tensor:
    return x.floor()


def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    return (x + epsilon).reciprocal()


def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    return (x + epsilon).log()


def logical_not(x: Tensor) -> Tensor:
    return x.logical_not()


def round_half_even(x: Tensor) -> Tensor:
    return x.round()


def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    return (x + epsilon).rsqrt()


def sign(x: Tensor) -> Tensor:
    """Of no number: no number, where torch says 0."""
    return torch.where(x.isnan(), x, x.sign())


def sin(x: Tensor) -> Tensor:
    return x.sin()


def sinh(x: Tensor) -> Tensor:
    return x.sinh()


def sqrt(x: Tensor) -> Tensor:
    return x.sqrt()


def square(x: Tensor) -> Tensor:
    return x * x


def tan(x: Tensor) -> Tensor:
    return x.tan()


def tanh(x: Tensor) -> Tensor:
    return x.tanh()


def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x.clamp(alpha, beta)


def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.maximum(x, alpha)


def cast(x: Tensor, dtype: Literal["bool", "fp16", "fp32", "int8", "uint8", "int16", "uint16", "int32"]) -> Tensor:
    """Towards zero from a fraction to an integer; true is what is not zero."""
    return x.to(DTYPES[dtype])


def identity(x: Tensor) -> Tensor:
    return x


def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


def sub(x: Tensor, y: Tensor) -> Tensor:
    return x - y


def mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


def real_div(x: Tensor, y: Tensor) -> Tensor:
    """Of integers, too, the quotient is a fraction; what is declared an integer loses it."""
    return x / y if x.is_floating_point() else x.double() / y


def floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="floor")


def mod(x: Tensor, y: Tensor) -> Tensor:
    """The sign is the divisor's."""
    return torch.remainder(x, y)


def power(x: Tensor, y: Tensor) -> Tensor:
    return torch.pow(x, y)


def maximum(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y)


def minimum(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(x, y)


def equal(x: Tensor, y: Tensor) -> Tensor:
    return x == y


def not_equal(x: Tensor, y: Tensor) -> Tensor:
    return x != y


def greater(x: Tensor, y: Tensor) -> Tensor:
    return x > y


def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    return x >= y


def less(x: Tensor, y: Tensor) -> Tensor:
    return x < y


def less_equal(x: Tensor, y: Tensor) -> Tensor:
    return x <= y


def logical_and(x: Tensor, y: Tensor) -> Tensor:
    return x & y


def logical_or(x: Tensor, y: Tensor) -> Tensor:
    return x | y


def logical_xor(x: Tensor, y: Tensor) -> Tensor:
    return x ^ y


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


OPERATORS = {
    "abs": operator(absolute),
    "acos": operator(acos),
    "add": operator(add),
    "asin": operator(asin),
    "atan": operator(atan),
    "atanh": operator(atanh),
    "cast": operator(cast),
    "ceil": operator(ceil),
    "clip": operator(clip),
    "cos": operator(cos),
    "cosh": operator(cosh),
    "equal": operator(equal),
    "erf": operator(erf),
    "exp": operator(exp),
    "exp2": operator(exp2),
    "floor": operator(floor),
    "floor_div": operator(floor_div),
    "greater": operator(greater),
    "greater_equal": operator(greater_equal),
    "identity": operator(identity),
    "inverse": operator(inverse),
    "less": operator(less),
    "less_equal": operator(less_equal),
    "log": operator(log),
    "logical_and": operator(logical_and),
    "logical_not": operator(logical_not),
    "logical_or": operator(logical_or),
    "logical_xor": operator(logical_xor),
    "maximum": operator(maximum),
    "minimum": operator(minimum),
    "mod": operator(mod),
    "mul": operator(mul),
    "not_equal": operator(not_equal),
    "pow": operator(power),
    "real_div": operator(real_div),
    "round": operator(round_half_even),
    "rsqrt": operator(rsqrt),
    "select": operator(select),
    "sign": operator(sign),
    "sin": operator(sin),
    "sinh": operator(sinh),
    "sqrt": operator(sqrt),
    "square": operator(square),
    "sub": operator(sub),
    "tan": operator(tan),
    "tanh": operator(tanh),
    "threshold": operator(threshold),
}
