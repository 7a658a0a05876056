"""Adaptive pooling: the operators that each pair of sizes takes; averages within the documented bound, maxima exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.rewrite_adaptive_pooling import PASS, pooling_matrix
from mobileseg.converters.passes.separable import FORMS

Size = tuple[int, int]
# From, to, the operators that compute it.
CASES: dict[str, tuple[Size, Size, set[str]]] = {
    "one pixel": ((11, 13), (1, 1), {"mean"}),
    "divides": ((12, 15), (4, 5), {"avg_pool2d"}),
    "divides to one row": ((6, 8), (1, 4), {"avg_pool2d"}),
    "one axis stays, one divides": ((6, 8), (6, 4), {"avg_pool2d"}),
    "identity": ((7, 9), (7, 9), set()),
    "identity of one pixel": ((1, 1), (1, 1), set()),
    "divides in neither": ((13, 17), (5, 6), {"matmul"}),
    "divides in one axis": ((12, 17), (4, 6), {"matmul"}),
    "one axis stays": ((7, 16), (7, 5), {"matmul"}),
    "upscaling": ((5, 6), (8, 15), {"matmul"}),
    "upscaling by a whole factor": ((3, 4), (6, 12), {"matmul"}),
    "up and down": ((5, 16), (11, 3), {"matmul"}),
    "from one pixel": ((1, 1), (3, 4), {"matmul"}),
    "ESPNetV2 of EdgeNets": ((32, 64), (15, 13), {"matmul"}),
}
MOVES = {"permute", "reshape", "numpy_T", "transpose"}


def product_of(forms: Forms) -> str:
    return "linear" if forms.adaptive_pooling.startswith("linear") else "matmul"


def assert_within_bound(result: Tensor, x: Tensor, size: Size) -> None:
    """2^-22 of the mean absolute value of each bin, from the value in double precision."""
    expected = F.adaptive_avg_pool2d(x.double(), size)
    bound = 2.0**-22 * F.adaptive_avg_pool2d(x.double().abs(), size)
    assert result.shape == expected.shape
    assert result.dtype == torch.float32
    assert bool(((result.double() - expected).abs() <= bound).all())


@pytest.mark.parametrize("case", CASES)
def test_each_pair_of_sizes(exported: Any, lines: tuple[Forms, ...], case: str) -> None:
    (height, width), size, operators = CASES[case]
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    program = exported(nn.AdaptiveAvgPool2d(size), x)
    assert {forms.adaptive_pooling for forms in lines} == set(FORMS)
    for forms in lines:
        rewritten = program.rewrite(PASS, forms)
        product = {product_of(forms)}
        assert (rewritten.outcome.count, rewritten.outcome.left) == (1, ())
        assert set(rewritten.operators) - MOVES == (product if operators == {"matmul"} else operators)
        assert_within_bound(rewritten(x), x, size)


def test_a_size_that_stays_takes_no_product(exported: Any, forms: Forms) -> None:
    x = torch.randn(1, 2, 7, 16)
    product = product_of(forms)
    assert exported(nn.AdaptiveAvgPool2d((7, 5)), x).rewrite(PASS, forms).operators[product] == 1
    assert exported(nn.AdaptiveAvgPool2d((5, None)), x).rewrite(PASS, forms).operators[product] == 1


@given(size=st.integers(1, 40), pooled=st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_the_matrix_averages_torchs_own_bins(size: int, pooled: int) -> None:
    matrix = pooling_matrix(size, pooled)
    assert torch.equal(matrix, F.adaptive_avg_pool1d(torch.eye(size)[None], pooled)[0].T)


def test_what_it_does_not_touch(exported: Any, several: Any, forms: Forms) -> None:
    class OneImage(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.adaptive_avg_pool2d(x[0], (3, 3))

    x = torch.randn(2, 3, 8, 8)
    network = several([nn.AvgPool2d(2), nn.MaxPool2d(2), OneImage()])
    rewritten = exported(network, x).rewrite(PASS, forms)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (0, ())
    assert rewritten.operators["adaptive_avg_pool2d"] == 1
    for result, expected in zip(rewritten(x), network(x), strict=True):
        assert torch.equal(result, expected)


MAXIMA: dict[str, tuple[Size, Size, set[str]]] = {
    "one pixel": ((11, 13), (1, 1), {"max_pool2d"}),
    "divides": ((12, 15), (4, 5), {"max_pool2d"}),
    "divides in neither": ((13, 17), (5, 6), {"narrow", "max_pool2d", "cat"}),
    "one axis stays": ((7, 16), (7, 5), {"narrow", "max_pool2d", "cat"}),
    "upscaling": ((5, 6), (8, 15), {"narrow", "max_pool2d", "cat"}),
}


@pytest.mark.parametrize("case", MAXIMA)
def test_maxima(exported: Any, lines: tuple[Forms, ...], case: str) -> None:
    (height, width), size, operators = MAXIMA[case]
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    program = exported(nn.AdaptiveMaxPool2d(size), x)
    for forms in lines:
        rewritten = program.rewrite(PASS, forms)
        assert (rewritten.outcome.count, rewritten.outcome.left) == (1, ())
        assert set(rewritten.operators) <= {*operators, "slice"}
        assert "adaptive_max_pool2d" not in rewritten.operators
        assert torch.equal(rewritten(x), F.adaptive_max_pool2d(x, size))


def test_maxima_whose_places_are_used_are_named(exported: Any, forms: Forms) -> None:
    x = torch.randn(1, 2, 6, 6)
    rewritten = exported(nn.AdaptiveMaxPool2d(2, return_indices=True), x).rewrite(PASS, forms)
    assert rewritten.outcome.left == ("adaptive_max_pool2d: the indices of its maxima are used",)
