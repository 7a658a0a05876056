"""Paddings by slices and concatenations: every side, signs mixed, odd sizes, and those that stay."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mobileseg.converters.forms import TABLE, Forms
from mobileseg.converters.passes.rewrite_padding import PASS

FORMS = TABLE["coreml", "fp32"]


class Padded(nn.Module):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()
        self.arguments, self.options = arguments, options

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, *self.arguments, **self.options)


def numbers() -> Tensor:
    return torch.arange(2 * 3 * 5 * 7, dtype=torch.float32).reshape(2, 3, 5, 7) - 50


@settings(deadline=None, max_examples=15)
@given(widths=st.lists(st.integers(-2, 3), min_size=4, max_size=4), fill=st.sampled_from([0.0, 1.5, -torch.inf]))
def test_widths_of_either_sign(exported: Any, widths: list[int], fill: float) -> None:
    network, x = Padded(widths, value=fill), numbers()
    rewritten = exported(network, x).rewrite(PASS, FORMS)
    assert rewritten.outcome.count == int(min(widths) < 0)
    assert rewritten.operators["pad"] == int(max(widths) > 0 or min(widths) == max(widths) == 0)
    assert torch.equal(rewritten(x), network(x))


@settings(deadline=None, max_examples=15)
@given(widths=st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 5), st.integers(0, 5)))
def test_circular(exported: Any, widths: tuple[int, ...]) -> None:
    network, x = Padded(list(widths), mode="circular"), numbers()
    rewritten = exported(network, x).rewrite(PASS, FORMS)
    assert (rewritten.outcome.count, rewritten.operators["pad"]) == (1, 0)
    assert torch.equal(rewritten(x), network(x))


def test_what_it_does_not_touch(exported: Any, several: Any, lines: tuple[Forms, ...]) -> None:
    kept = [
        Padded((1, 2, 0, 3)),
        Padded((1, 2, 0, 3), value=-1.0),
        Padded((1, 2, 3, 3), mode="reflect"),
        Padded((1, 2, 3, 3), mode="replicate"),
        Padded((-1, 2, 1, 1), mode="circular"),
    ]
    network, x = several(kept), numbers()
    program = exported(network, x)
    for forms in lines:
        rewritten = program.rewrite(PASS, forms)
        assert rewritten.outcome.count == 0
        for result, expected in zip(rewritten(x), network(x), strict=True):
            assert torch.equal(result, expected)
