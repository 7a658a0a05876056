"""Softmax and argmax over the last axis: the same numbers, and only where nothing else was asked of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobileseg.converters.forms import TABLE, Forms
from mobileseg.converters.passes.rewrite_channel_reduction import PASS

FORMS = TABLE["executorch", "fp32"]


class Calls(nn.Module):
    """A function as a network."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def numbers() -> Tensor:
    """(2, 5, 7, 3) with ties: whole numbers from -3 to 3."""
    return torch.randint(-3, 4, (2, 5, 7, 3), generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize("axis", [1, -3, 0, 2, 3])
def test_softmax_over_any_axis(exported: Any, axis: int) -> None:
    network, x = Calls(lambda x: torch.softmax(x, axis)), numbers()
    rewritten = exported(network, x).rewrite(PASS, FORMS)
    assert rewritten.outcome.count == 1
    torch.testing.assert_close(rewritten(x), network(x), rtol=1e-6, atol=0)


@pytest.mark.parametrize("axis", [1, -3])
def test_argmax_takes_the_first_of_equals(exported: Any, axis: int) -> None:
    network, x = Calls(lambda x: torch.argmax(x, axis)), numbers()
    rewritten = exported(network, x).rewrite(PASS, FORMS)
    assert rewritten.outcome.count == 1
    assert rewritten.operators == {"permute": 1, "argmax": 1}
    assert torch.equal(rewritten(x), network(x))


def test_what_it_does_not_touch(exported: Any, several: Any, lines: tuple[Forms, ...]) -> None:
    functions = [
        lambda x: torch.argmax(x, 1, keepdim=True),
        lambda x: torch.argmax(x, 2),
        lambda x: torch.argmax(x),
        lambda x: torch.softmax(x, 1, dtype=torch.float64),
        lambda x: torch.softmax(x[0], 1),
    ]
    network, x = several([Calls(f) for f in functions]), numbers()
    program = exported(network, x)
    for forms in (FORMS, *lines):
        rewritten = program.rewrite(PASS, forms)
        assert (rewritten.outcome.count, rewritten.operators["permute"]) == (0, 0)
        for result, expected in zip(rewritten(x), network(x), strict=True):
            assert torch.equal(result, expected)
    plain = exported(Calls(lambda x: torch.softmax(x, 1)), x)
    native = [forms for forms in lines if forms.channel_reduction == "native"]
    assert [plain.rewrite(PASS, forms).outcome.count for forms in native] == [0] * len(native)
