"""Limits one behind the other: the same numbers from one operator, and only where nobody reads between them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.fuse_clamps import PASS


class Calls(nn.Module):
    """A function as a network."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def numbers() -> Tensor:
    """(2, 3, 5, 7): every half from -9 to 9 and its neighbours, the limits themselves among them."""
    return torch.cat([torch.arange(-18, 19) / 2, 3 * torch.randn(173)])[:210].reshape(2, 3, 5, 7)


CHAINS = {
    "relu, then a range about zero": (lambda x: F.hardtanh(F.relu(x), -0.5, 0.5), {"hardtanh": 1}),
    "twice the same": (lambda x: F.relu(F.relu(x)), {"relu": 1}),
    "three": (lambda x: F.relu(F.relu6(x.clamp(-1, 8))), {"relu6": 1}),
    "one side each": (lambda x: x.clamp(min=-1).clamp(max=2), {"hardtanh": 1}),
    "the lower twice": (lambda x: x.clamp(min=-1).clamp(min=-3), {"clamp": 1}),
    "the second above the first": (lambda x: F.hardtanh(x, -2, -1).clamp(1, 3), {"hardtanh": 1}),
    "the second below the first": (lambda x: F.hardtanh(x, 2, 4).clamp(max=0.5), {"hardtanh": 1}),
}


@pytest.mark.parametrize(("function", "left"), CHAINS.values(), ids=CHAINS)
def test_chains(exported: Any, lines: tuple[Forms, ...], function: Any, left: dict[str, int]) -> None:
    network, x = Calls(function), numbers()
    rewritten = exported(network, x).rewrite(PASS, lines[0])
    assert rewritten.operators == left
    assert torch.equal(rewritten(x), network(x))


def test_what_it_does_not_touch(exported: Any, lines: tuple[Forms, ...]) -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        between = F.relu(x)
        whole = x.argmax(1)
        return (
            between,
            F.hardtanh(between, -0.5, 0.5),
            F.hardtanh(x + 1, -0.5, 0.5),
            whole.clamp(min=1).clamp(max=2),
            x.clamp(2, -2).clamp(min=0),
        )

    network, x = Calls(function), numbers()
    program = exported(network, x)
    for forms in lines:
        rewritten = program.rewrite(PASS, forms)
        assert rewritten.outcome.count == 0
        for result, expected in zip(rewritten(x), network(x), strict=True):
            assert torch.equal(result, expected)
