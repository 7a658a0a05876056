"""Matrix products. Source: ``linear.py`` of coremltools' MIL and iOS 18's ``transformers.py``."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mobileseg.validation.coreml.operators.base import operator

_EQUATIONS = ("nchw,nwhu->nchu", "nch,hcw->ncw")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``weight``: (outputs, inputs). From iOS 17 on, weights may be integers where x is none, and the reverse."""
    parameters = _alike(x, weight, *([] if bias is None else [bias]))
    return functional.linear(*parameters)


def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """A vector is a row on the left and a column on the right, and is not transposed. From iOS 17 on, one may be of
    integers where the other is not."""
    x, y = _alike(x, y)
    left = x.transpose(-1, -2) if transpose_x and x.ndim > 1 else x
    right = y.transpose(-1, -2) if transpose_y and y.ndim > 1 else y
    return torch.matmul(left, right)


def einsum(values: list[Tensor], equation: str) -> Tensor:
    return torch.einsum(equation, *values)


def _alike(*tensors: Tensor) -> list[Tensor]:
    """All integers, or none: torch multiplies no others."""
    mixed = len({tensor.is_floating_point() for tensor in tensors}) > 1
    return [tensor.double() if mixed else tensor for tensor in tensors]


def _other_equation(equation: str = _EQUATIONS[0]) -> str | None:
    """Two forms alone are defined, whatever their letters."""
    letters = dict.fromkeys(letter for letter in equation if letter.isalpha())
    renamed = equation.translate({ord(old): new for old, new in zip(letters, "nchwu", strict=False)})
    return None if renamed.replace(" ", "") in _EQUATIONS else f"the equation '{equation}'"


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """``attn_mask``: true where a key takes part, or what is added to the scores."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ value


OPERATORS = {
    "einsum": operator(einsum, _other_equation),
    "linear": operator(linear),
    "matmul": operator(matmul),
    "scaled_dot_product_attention": operator(scaled_dot_product_attention),
}
