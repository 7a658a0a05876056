"""Expansions that nothing needs go; the others become repetitions where a target asks for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.forms import TABLE, Forms
from mobileseg.converters.passes.rewrite_expansion import PASS

REPEAT, NATIVE = TABLE["tflite", "fp32"], TABLE["onnx", "fp32"]


class Calls(nn.Module):
    """A function as a network."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def numbers() -> Tensor:
    return torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))


BROADCAST = {
    "a channel's norm": lambda x: F.normalize(x, dim=1),
    "as the second operand": lambda x: x - x.mean((2, 3), keepdim=True).expand_as(x),
    "as the first": lambda x: x.mean((2, 3), keepdim=True).expand_as(x) / x,
    "without an axis in front": lambda x: x * x.mean((0, 2, 3), keepdim=True)[0].expand(2, 3, 5, 7),
}
NEEDED = {
    "concatenated": lambda x: torch.cat([x, x.mean((2, 3), keepdim=True).expand(-1, -1, 5, 7)], 1),
    "the result's own shape": lambda x: x.mean((2, 3), keepdim=True).expand(2, 3, 5, 7) * 0.5,
    "a new axis": lambda x: x.mean((0, 2, 3)).reshape(3, 1, 1).expand(2, 3, 5, 7).relu(),
}


@pytest.mark.parametrize("function", BROADCAST.values(), ids=BROADCAST)
def test_broadcasting_operators_take_what_was_expanded(exported: Any, lines: tuple[Forms, ...], function: Any) -> None:
    network, x = Calls(function), numbers()
    program = exported(network, x)
    for forms in lines:
        rewritten = program.rewrite(PASS, forms)
        assert rewritten.outcome.count == 1
        assert not {"expand", "repeat"} & set(rewritten.operators)
        assert torch.equal(rewritten(x), network(x))


@pytest.mark.parametrize("function", NEEDED.values(), ids=NEEDED)
def test_what_is_needed_is_repeated_or_stays(exported: Any, function: Any) -> None:
    network, x = Calls(function), numbers()
    program = exported(network, x)
    expansions = program.rewrite(PASS, NATIVE).operators["expand"]
    assert expansions >= 1
    assert program.rewrite(PASS, NATIVE).outcome.count == 0
    repeated = program.rewrite(PASS, REPEAT)
    assert repeated.outcome.count == repeated.operators["repeat"] == expansions
    assert repeated.operators["expand"] == 0
    assert torch.equal(repeated(x), network(x))


def test_of_two_expanded_operands_one_gives_the_shape(exported: Any) -> None:
    def function(x: Tensor) -> Tensor:
        return x.amax(3, keepdim=True).expand_as(x) + x.amax(2, keepdim=True).expand_as(x)

    network, x = Calls(function), numbers()
    rewritten = exported(network, x).rewrite(PASS, NATIVE)
    assert (rewritten.outcome.count, rewritten.operators["expand"]) == (1, 1)
    assert torch.equal(rewritten(x), network(x))


def test_one_reader_of_two(exported: Any) -> None:
    def function(x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True).expand_as(x)
        return torch.cat([x - mean, mean], 1)

    network, x = Calls(function), numbers()
    rewritten = exported(network, x).rewrite(PASS, REPEAT)
    assert (rewritten.operators["repeat"], rewritten.operators["expand"]) == (1, 0)
    assert torch.equal(rewritten(x), network(x))
